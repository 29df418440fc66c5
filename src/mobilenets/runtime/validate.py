"""How often a model is right on a data set, with how sure that is; labels are matched by name. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data import Dataset, SplitName, prepared
from ..errors import CheckError, DataError, UsageError
from ..imagenet import imagenet_labels, imagenet_synsets
from ..metrics import (
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    softmax,
    top_k_accuracy,
    wilson_interval,
)
from .evaluate import run_batches
from .model import Model

__all__ = ["ClassScore", "Validation", "match_labels", "validate_artifact", "validation_of"]

_SYNSET = re.compile(r"n\d{8}")


class ClassScore(msgspec.Struct, frozen=True, kw_only=True):
    """One class: how many images it has, and how many of them were recognised."""

    label: str
    n: int
    right: int
    accuracy: float  # in [0, 1]
    mostly_taken_for: str | None  # the wrong answer that was given most often; None: all were right


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on `n` images of one split; shares are in [0, 1]."""

    data: str
    split: SplitName
    n: int
    top1: float
    top1_low: float  # 95 %, Wilson
    top1_high: float
    top5: float | None  # none with five classes or fewer, where it says nothing
    balanced: float  # mean of the classes' accuracies; those without images do not count
    calibration_error: float  # expected, 15 bins
    classes: tuple[ClassScore, ...]  # worst first; those without images are left out


def validate_artifact(model: Model, dataset: Dataset, *, split: SplitName | None = None) -> Validation:
    """Measure an opened artifact.

    Args:
        model: what `open_artifact` gives.
        dataset: images; its labels may be in another order than the model's, and fewer.
        split: default: the data set's final one, "test" where there is one.

    Raises:
        UsageError: the data has a class that the model lacks; names it.
        DataError: no such split, or no images in it.
        CheckError: the model answers with numbers that are not finite.
    """
    chosen = dataset.final_split if split is None else split
    own = match_labels(model.artifact.labels, dataset.labels)
    pixels = prepared(dataset, chosen, model.artifact.preprocess)
    logits = run_batches(model.engine, pixels.images)
    return validation_of(logits, own[pixels.targets], labels=model.artifact.labels, data=dataset.name, split=chosen)


def match_labels(model: Sequence[str], data: Sequence[str]) -> NDArray[np.int64]:
    """For each class of the data (K,) its index among the model's labels, by name.

    ImageNet's folders are called n01440764 ...; they find the classes of a model that names them in English.

    Raises:
        UsageError: the model lacks a class of the data; names it.
    """
    places = {label: index for index, label in enumerate(model)}
    if places.keys().isdisjoint(data) and all(_SYNSET.fullmatch(label) for label in data):
        english = dict(zip(imagenet_synsets(), imagenet_labels(), strict=True))
        data = [english.get(label, label) for label in data]
        for index, label in enumerate(model):  # "tench, Tinca tinca" goes by its first name as well
            places.setdefault(label.partition(",")[0], index)
    if missing := [label for label in data if label not in places]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UsageError(
            f"the data has classes that the model lacks: {', '.join(missing[:5])}{more}",
            wanted=f"classes among {', '.join(list(model)[:8])}" + (" ..." if len(model) > 8 else ""),
            do="rename or remove those folders, or train a model on this data",
        )
    return np.array([places[label] for label in data], dtype=np.int64)


def validation_of(
    logits: NDArray[np.float32], targets: NDArray[Any], *, labels: Sequence[str], data: str, split: SplitName
) -> Validation:
    """The numbers for logits (N, K) against targets (N,), indices into the K labels.

    Raises:
        DataError: no images.
        CheckError: logits that are not finite.
    """
    n = len(targets)
    if not n:
        raise DataError(f"{data} has no images in {split}", wanted="at least one", do="use another split")
    if odd := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise CheckError(
            f"{odd} of {n} images are answered with numbers that are not finite",
            wanted="finite logits",
            do="check the training for divergence, or export at a higher precision",
        )
    top1 = top_k_accuracy(logits, targets, k=1)
    low, high = wilson_interval(round(top1 * n), n)
    matrix = confusion(logits.argmax(axis=1), targets, classes=len(labels))
    scores = [_class_score(matrix[index], index, labels) for index in np.flatnonzero(matrix.sum(axis=1)).tolist()]
    return Validation(
        data=data,
        split=split,
        n=n,
        top1=top1,
        top1_low=low,
        top1_high=high,
        top5=top_k_accuracy(logits, targets, k=5) if len(labels) > 5 else None,
        balanced=balanced_accuracy(matrix),
        calibration_error=expected_calibration_error(softmax(logits), targets),
        classes=tuple(sorted(scores, key=lambda score: (score.accuracy, -score.n))),
    )


def _class_score(counts: NDArray[np.int64], index: int, labels: Sequence[str]) -> ClassScore:
    n, right = int(counts.sum()), int(counts[index])
    wrong = counts.copy()
    wrong[index] = 0
    taken = labels[int(wrong.argmax())] if wrong.any() else None
    return ClassScore(label=labels[index], n=n, right=right, accuracy=right / n, mostly_taken_for=taken)
