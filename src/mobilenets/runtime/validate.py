"""How well a model answers a data set, with how sure that is; labels are matched by name. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data import Dataset, SplitName, prepared
from ..errors import CheckError, DataError, UsageError
from ..imagenet import imagenet_labels, imagenet_synsets
from ..metrics import (
    average_precisions,
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    f1_scores,
    label_loss,
    mean_of_known,
    softmax,
    top_k_accuracy,
    wilson_interval,
)
from ..records import Preprocess, Task
from .evaluate import run_batches
from .model import Model

__all__ = [
    "VALIDATIONS",
    "ClassScore",
    "LabelScore",
    "LabelValidation",
    "Validation",
    "check_same_task",
    "label_validation_of",
    "match_labels",
    "own_targets",
    "validate_artifact",
    "validate_with",
    "validation_of",
]

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


class LabelScore(msgspec.Struct, frozen=True, kw_only=True):
    """One label of images that may have any number of them; None where no image has it."""

    label: str
    n: int  # images of which it is known
    positive: int  # those that have it
    average_precision: float | None  # in [0, 1]; guessing gives positive / n
    f1: float | None  # in [0, 1], said to be there above a probability of a half


class LabelValidation(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on `n` images of one split, each with any number of labels; shares are in [0, 1]."""

    data: str
    split: SplitName
    n: int
    map: float  # mean over labels of the average precision; those that no image has do not count
    f1: float  # likewise
    loss: float  # sigmoid cross-entropy in nats, summed over labels, mean over images
    labels: tuple[LabelScore, ...]  # worst first; those of which nothing is known are left out


def validate_artifact(
    model: Model, dataset: Dataset, *, split: SplitName | None = None
) -> Validation | LabelValidation:
    """Measure an opened artifact.

    Args:
        model: what `open_artifact` gives.
        dataset: images; its labels may be in another order than the model's, and fewer.
        split: default: the data set's final one, "test" where there is one.

    Raises:
        UsageError: the data has a class that the model lacks, and names it; or it is for another task.
        DataError: no such split, or no images in it.
        CheckError: the model answers with numbers that are not finite.
    """
    about = model.artifact
    return validate_with(
        partial(run_batches, model.engine),
        dataset,
        task=about.task,
        labels=about.labels,
        preprocess=about.preprocess,
        split=split,
    )


def validate_with(
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    dataset: Dataset,
    *,
    task: Task,
    labels: Sequence[str],
    preprocess: Preprocess,
    split: SplitName | None,
) -> Validation | LabelValidation:
    """Measure what gives logits (N, K) for prepared images uint8 (N, R, R, C).

    Raises:
        As `validate_artifact`.
    """
    chosen = dataset.final_split if split is None else split
    check_same_task(task, dataset)
    own = match_labels(labels, dataset.labels)
    pixels = prepared(dataset, chosen, preprocess)
    targets = own_targets(pixels.targets, own, count=len(labels))
    return VALIDATIONS[task](answer(pixels.images), targets, labels=labels, data=dataset.name, split=chosen)


def check_same_task(task: Task, dataset: Dataset) -> None:
    """Whether a model's answers can be held against a data set.

    Raises:
        UsageError: it is for another task.
    """
    if task != dataset.task:
        raise UsageError(
            f"the model is of the task {task!r}, {dataset.name} of {dataset.task!r}",
            wanted="classify with one class per image (folders), multilabel with any number of labels (a table)",
            do="use the data that the model was trained for",
        )


def own_targets(targets: NDArray[Any], own: NDArray[np.int64], *, count: int) -> NDArray[Any]:
    """The data's targets in the order of the model's labels.

    Args:
        targets: class indices (N,), or labels (N, K).
        own: for each class or label of the data its index among the model's, (K,); see `match_labels`.
        count: of the model's labels; of those that the data lacks nothing is known.
    """
    if targets.ndim == 1:
        of_classes: NDArray[Any] = own[targets]
        return of_classes
    made = np.full((len(targets), count), np.nan, np.float32)
    made[:, own] = targets
    return made


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
    n = _checked(logits, data=data, split=split)
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


def label_validation_of(
    logits: NDArray[np.float32], targets: NDArray[Any], *, labels: Sequence[str], data: str, split: SplitName
) -> LabelValidation:
    """The numbers for logits (N, K) against the labels that images have, (N, K); NaN is not known.

    Raises:
        DataError: no images.
        CheckError: logits that are not finite.
        UsageError: no image has any of the labels.
    """
    n = _checked(logits, data=data, split=split)
    precisions, f1 = average_precisions(logits, targets), f1_scores(logits, targets)
    known, positive = (~np.isnan(targets)).sum(axis=0), (targets == 1).sum(axis=0)
    scores = [
        LabelScore(
            label=label,
            n=int(known[k]),
            positive=int(positive[k]),
            average_precision=float(precisions[k]) if positive[k] else None,
            f1=float(f1[k]) if positive[k] else None,
        )
        for k, label in enumerate(labels)
        if known[k]
    ]
    return LabelValidation(
        data=data,
        split=split,
        n=n,
        map=mean_of_known(precisions),
        f1=mean_of_known(f1),
        loss=label_loss(logits, targets),
        labels=tuple(sorted(scores, key=lambda one: (one.average_precision is None, one.average_precision or 0.0))),
    )


def _checked(logits: NDArray[np.float32], *, data: str, split: SplitName) -> int:
    """How many images were answered, if all were, with numbers."""
    n = len(logits)
    if not n:
        raise DataError(f"{data} has no images in {split}", wanted="at least one", do="use another split")
    if odd := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise CheckError(
            f"{odd} of {n} images are answered with numbers that are not finite",
            wanted="finite logits",
            do="check the training for divergence, or export at a higher precision",
        )
    return n


VALIDATIONS: Final[Mapping[Task, Callable[..., Validation | LabelValidation]]] = MappingProxyType(
    {"classify": validation_of, "multilabel": label_validation_of}
)
