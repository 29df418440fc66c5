"""The same labelled images, fed in every usual way: which one does the network know?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..data import Dataset, SplitName, prepared
from ..errors import CheckError, DataError, UsageError
from ..imagenet import imagenet_labels, imagenet_synsets
from ..metrics import mcnemar, wilson_interval
from ..records import Preprocess
from ..runtime.validate import match_labels
from .feeders import Feeder
from .names import names_in
from .records import Fed, Feeding, Order, Shifted

__all__ = [
    "NORMS",
    "Norm",
    "Way",
    "fed_in",
    "feed",
    "numbers_of",
    "outputs_of",
    "preprocess_for",
    "said_by",
    "sampled",
    "ways",
]

LIMIT: Final = 256  # images: enough for differences of a few points, little enough to wait for
SHIFTS: Final = (1, -1)
Norm = Literal["imagenet", "minus1to1", "0to1", "0to255"]
# Mean and std of values in [0, 1], by name: what people feed networks with.
NORMS: Final[Mapping[Norm, tuple[str, tuple[float, ...], tuple[float, ...]]]] = MappingProxyType(
    {
        "imagenet": ("ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "minus1to1": ("values in [-1, 1]", (0.5,) * 3, (0.5,) * 3),
        "0to1": ("values in [0, 1]", (0.0,) * 3, (1.0,) * 3),
        "0to255": ("values in [0, 255]", (0.0,) * 3, (1 / 255,) * 3),
    }
)


@dataclass(frozen=True)
class Way:
    """How bytes become the numbers that the first layer sees: mean and std by colour, then the colours' order."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Order = "RGB"


def fed_in(norm: Norm, *, order: Order = "RGB", channels: int = 3) -> Way:
    """A usual way.

    Raises:
        UsageError: no such way.
    """
    if norm not in NORMS:
        raise UsageError(f"fed is {norm!r}", wanted=" or ".join(NORMS), do="name one of them")
    name, mean, std = NORMS[norm]
    return _ordered(Way(name, mean[:channels], std[:channels]), order)


def _ordered(way: Way, order: Order) -> Way:
    if order == "RGB":
        return way
    return Way(f"{way.name}, blue first", way.mean, way.std, order)


def ways(said: Way) -> tuple[Way, ...]:
    """The way it is said to be fed first, then every other one."""
    channels = len(said.mean)
    other: Order = "BGR" if said.order == "RGB" else "RGB"
    orders: tuple[Order, ...] = (said.order, other) if channels == 3 else (said.order,)
    plain = Way(said.name.removesuffix(", blue first"), said.mean, said.std)
    usual = [plain, *(fed_in(norm, channels=channels) for norm in NORMS)]
    made: dict[Any, Way] = {}
    for order in orders:
        for way in usual:
            made.setdefault((way.mean, way.std, order), _ordered(way, order))
    first = made.pop((said.mean, said.std, said.order))
    return (first, *made.values())


def numbers_of(pixels: NDArray[np.uint8], way: Way) -> NDArray[np.float32]:
    """Bytes (N, R, R, C), red first, as the first layer sees them if fed in this way."""
    mean, std = np.array(way.mean), np.array(way.std)
    numbers = ((pixels / 255 - mean) / std).astype(np.float32)
    return np.ascontiguousarray(numbers[..., ::-1]) if way.order == "BGR" else numbers


def sampled(
    dataset: Dataset, preprocess: Preprocess, *, split: SplitName | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Up to 256 images of a split, prepared, with the data's targets.

    Raises:
        DataError: no such split, or no images in it.
    """
    chosen = split or dataset.final_split
    pixels = prepared(dataset, chosen, preprocess)
    if not len(pixels):
        raise DataError(f"{dataset.name} has no images in {chosen}", wanted="at least one", do="use another split")
    drawn = np.sort(np.random.default_rng(0).permutation(len(pixels))[:LIMIT])
    return np.array(pixels.images[drawn]), np.array(pixels.targets[drawn])


def feed(
    feeder: Feeder,
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    said: Way,
    *,
    own: NDArray[np.float32] | None,
    data: str,
    labels: str,
) -> Feeding:
    """Try every way.

    Args:
        feeder: of the file.
        pixels: uint8 (N, R, R, C).
        targets: the output of each image's class (N,).
        said: how it is said to be fed.
        own: its logits when it is fed so, where they are known; else the feeder is asked.
        data: names the images.
        labels: says where the targets come from.

    Raises:
        CheckError: it cannot even be fed as it is said to be.
    """
    first, *others = ways(said)
    answers = feeder.logits(numbers_of(pixels, first)) if own is None else own
    if isinstance(answers, str):
        raise CheckError(
            f"the file cannot be fed {first.name}: {answers}",
            wanted="a way to feed it that it takes",
            do="say how it is fed with --fed",
        )
    untried, tried = {}, [(first, answers)]
    for way in others:
        made = feeder.logits(numbers_of(pixels, way))
        if isinstance(made, str):
            untried[way.name] = made
        else:
            tried.append((way, made))
    straight = _right(answers, targets)
    without = max((_right(made, targets) for _, made in tried), key=_share)
    told = [_fed(way, _right(made, targets), straight, without) for way, made in tried]
    return Feeding(
        data=data,
        n=len(targets),
        classes=len(np.unique(targets)),
        ways=tuple(told),
        shifts=tuple(_shifted(shift, tried, targets, without) for shift in SHIFTS),
        untried=untried,
        labels=labels,
    )


def _right(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image's largest logit is its target's; a row that is not finite is wrong."""
    return np.asarray((logits.argmax(axis=1) == targets) & np.isfinite(logits).all(axis=1))


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean())


def _shifted(
    shift: int,
    tried: Sequence[tuple[Way, NDArray[np.float32]]],
    targets: NDArray[np.int64],
    without: NDArray[np.bool_],
) -> Shifted:
    """The best way with a shift; `without` is what the best one without gets right."""
    every = [(way.name, _right(logits, targets + shift)) for way, logits in tried]
    name, right = max(every, key=lambda pair: _share(pair[1]))
    return Shifted(shift=shift, way=name, top1=_share(right), p=mcnemar(right, without))


def _fed(way: Way, right: NDArray[np.bool_], straight: NDArray[np.bool_], best: NDArray[np.bool_]) -> Fed:
    low, high = wilson_interval(int(right.sum()), len(right))
    return Fed(
        name=way.name,
        order=way.order,
        mean=way.mean,
        std=way.std,
        top1=_share(right),
        low=low,
        high=high,
        p=mcnemar(right, straight),
        best_p=mcnemar(right, best),
    )


def outputs_of(
    classes: Sequence[str], *, outputs: int, named: Sequence[str], metadata: Mapping[str, str]
) -> tuple[NDArray[np.int64], str]:
    """For each class of the data (K,) the output that stands for it, and how that is known.

    Args:
        classes: names, as the data has them.
        outputs: how many the file has.
        named: the labels of an artifact; empty for somebody else's file.
        metadata: what an ONNX file says of itself; some exporters put names there.

    Raises:
        UsageError: the classes cannot be matched to the outputs.
    """
    if named:
        return match_labels(named, classes), "artifact.json"
    if names := names_in(metadata, outputs):
        with contextlib.suppress(UsageError):  # names of another wording; ImageNet's order may still be known
            return match_labels(names, classes), "the file's metadata"
    known = {*imagenet_labels(), *imagenet_synsets()}
    if outputs in (1000, 1001) and all(name in known for name in classes):
        return match_labels(imagenet_labels(), classes) + (outputs - 1000), "ImageNet's usual order"
    extra = outputs - len(classes)
    if extra not in (0, 1):
        raise UsageError(
            f"the file has {outputs} outputs, the data {len(classes)} classes",
            wanted="as many classes as outputs, or folders named by ImageNet's classes",
            do="give images of all its classes",
        )
    order = {name: index + extra for index, name in enumerate(sorted(classes))}
    told = "the alphabet, as torchvision.datasets.ImageFolder counts"
    return np.array([order[name] for name in classes], np.int64), told + (", behind a background" if extra else "")


def preprocess_for(side: int, channels: int) -> Preprocess:
    """How images are made for somebody else's file: the shorter side, and of that the middle 87.5 %, as most do."""
    return Preprocess(resolution=side, channels=channels, crop_fraction=0.875)


def said_by(preprocess: Preprocess) -> Way:
    """The way of an artifact."""
    return Way("as artifact.json says", preprocess.mean, preprocess.std)
