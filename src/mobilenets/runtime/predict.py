"""Images in, labels with probabilities out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UsageError
from ..images import Source, load
from ..metrics import sigmoid, softmax
from ..records import Prediction, Preprocess, Score, Task
from .model import Answers

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["READERS", "Reading", "predict"]

DECODERS = 2  # threads; decoding a photo costs about as much as one answer, and Pillow works outside Python's lock

MOST_CLASSES = 5  # that are told of an image, where nothing else is asked for


class Reading(NamedTuple):
    """What the logits of an image mean."""

    probabilities: NDArray[np.float64]  # (K,) in [0, 1]
    usual: int  # how many labels are told, best first,
    most: int  # and how many may be


Loaded = NDArray[np.uint8] | DataError


def predict(
    model: Answers, sources: Iterable[Source], *, top_k: int | None = None, batch_size: int = 8
) -> Iterator[Prediction]:
    """What the model says of each image, in the order given.

    The next batch is decoded in the background while the engine works on the present one. An image that cannot be
    decoded yields a prediction with `error` set, and the rest go on.

    Args:
        model: an opened artifact, or a bundle's network (`train.BundleModel`).
        sources: image files, encoded images, or decoded ones; a path names its prediction, others are "image 0",
            "image 1" ... by their place among the sources.
        top_k: at most this many labels per image, best first; None: 5 of a classifier, or, where images have any number
            of labels, all that are there. Then a label counts as being there if its probability is above a half, and
            an image may have none.
        batch_size: images per run of the engine.

    Raises:
        UsageError: top_k or batch_size below 1. Raised here, not at the first prediction.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}", wanted="at least 1", do="give a positive number")
    return _predict(model, sources, top_k=top_k, batch_size=batch_size)


def _predict(model: Answers, sources: Iterable[Source], *, top_k: int | None, batch_size: int) -> Iterator[Prediction]:
    numbered = enumerate(sources)
    first = list(islice(numbered, batch_size))
    if len(first) == 1:  # one image has nothing to overlap with, and starts sooner without threads
        (number, source), *_ = first
        yield from _answer(model, [_name(number, source)], [_load(source, model.preprocess)], top_k=top_k)
        first = list(islice(numbered, batch_size))
        if not first:
            return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=DECODERS, thread_name_prefix="decode")
    ahead: deque[tuple[list[str], list[Future[Loaded]]]] = deque()
    try:
        batch = first
        while batch or ahead:
            if batch:
                names = [_name(number, source) for number, source in batch]
                ahead.append((names, [pool.submit(_load, source, model.preprocess) for _, source in batch]))
                batch = list(islice(numbered, batch_size))
            if len(ahead) == 2 or not batch:  # one batch in the engine, one being decoded: memory stays bounded
                names, futures = ahead.popleft()
                yield from _answer(model, names, [future.result() for future in futures], top_k=top_k)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _answer(model: Answers, names: list[str], loaded: list[Loaded], *, top_k: int | None) -> Iterator[Prediction]:
    """One batch through the engine; the broken ones are passed around it."""
    pixels = [each for each in loaded if not isinstance(each, DataError)]
    logits = iter(model.run(np.stack(pixels)) if pixels else ())
    for name, each in zip(names, loaded, strict=True):
        if isinstance(each, DataError):
            yield Prediction(image=name, error=str(each))
        else:
            yield _prediction(name, next(logits), model=model, top_k=top_k)


def _prediction(name: str, logits: NDArray[np.float32], *, model: Answers, top_k: int | None) -> Prediction:
    if not np.isfinite(logits).all():
        return Prediction(image=name, error="the model answered with numbers that are not finite")
    probabilities, usual, most = READERS[model.task](logits)
    best = np.argsort(-logits, kind="stable")[: usual if top_k is None else min(top_k, most)]
    return Prediction(
        image=name,
        top=tuple(Score(label=model.labels[i], index=int(i), probability=float(probabilities[i])) for i in best),
    )


def _one_class(logits: NDArray[np.float32]) -> Reading:
    return Reading(softmax(logits), usual=MOST_CLASSES, most=len(logits))


def _any_labels(logits: NDArray[np.float32]) -> Reading:
    there = int((logits > 0).sum())
    return Reading(sigmoid(logits), usual=there, most=there)


READERS: Final[Mapping[Task, Callable[[NDArray[np.float32]], Reading]]] = MappingProxyType(
    {"classify": _one_class, "multilabel": _any_labels}
)


def _load(source: Source, preprocess: Preprocess) -> Loaded:
    try:
        return load(source, preprocess)
    except DataError as error:
        return error


def _name(number: int, source: Source) -> str:
    return str(source) if isinstance(source, Path) else f"image {number}"
