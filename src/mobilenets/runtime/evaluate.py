"""How an artifact answers on labelled images: what `val` reports and what the export gate compares."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError, UsageError
from ..metrics import (
    confusion,
    expected_calibration_error,
    per_class_accuracy,
    softmax,
    top_k_accuracy,
    wilson_interval,
)
from ..records import only_classifiers
from .engine import Engine
from .model import Model

__all__ = ["Evaluation", "evaluate", "run_batches"]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Measured on `n` images of K classes; shares are in [0, 1]."""

    n: int
    top1: float
    top1_low: float  # 95 %, Wilson
    top1_high: float
    top5: float | None  # none with five classes or fewer, where it says nothing
    calibration_error: float  # expected, 15 bins
    per_class: NDArray[np.float64]  # (K,), NaN for a class without images
    confusion: NDArray[np.int64]  # (K, K), rows are the truth
    logits: NDArray[np.float32]  # (n, K)


def evaluate(model: Model, images: NDArray[np.uint8], targets: NDArray[Any], *, batch_size: int = 32) -> Evaluation:
    """Run a classifier over labelled images.

    Args:
        model: an opened artifact.
        images: uint8 (N, R, R, C), as `images.load` makes them; may be memory-mapped.
        targets: class indices (N,).
        batch_size: images per run of the engine.

    Raises:
        UsageError: shapes or classes that do not belong together, no images, or no classifier.
        CheckError: the model answers with numbers that are not finite.
    """
    only_classifiers(model.task, what="accuracy")
    if len(images) != len(targets) or not len(images):
        raise UsageError(
            f"there are {len(images)} images and {len(targets)} targets",
            wanted="one target per image, and at least one",
            do="check the data",
        )
    logits = run_batches(model.engine, images, batch_size=batch_size)
    odd = int((~np.isfinite(logits)).any(axis=1).sum())
    if odd:
        raise CheckError(
            f"{model.artifact.file} answers {odd} of {len(images)} images with numbers that are not finite",
            wanted="finite logits",
            do="check the training for divergence, or export at a higher precision",
        )
    classes = len(model.artifact.labels)
    top1 = top_k_accuracy(logits, targets, k=1)
    low, high = wilson_interval(round(top1 * len(images)), len(images))
    matrix = confusion(logits.argmax(axis=1), targets, classes=classes)
    return Evaluation(
        n=len(images),
        top1=top1,
        top1_low=low,
        top1_high=high,
        top5=top_k_accuracy(logits, targets, k=5) if classes > 5 else None,
        calibration_error=expected_calibration_error(softmax(logits), targets),
        per_class=per_class_accuracy(matrix),
        confusion=matrix,
        logits=logits,
    )


def run_batches(engine: Engine, images: NDArray[np.uint8], *, batch_size: int = 32) -> NDArray[np.float32]:
    """Logits (N, K) of images (N, R, R, C), N >= 1, a batch at a time.

    Raises:
        UsageError: no images, or of another dtype or shape than the model takes; batch_size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}", wanted="at least 1", do="give a positive number")
    starts = range(0, max(len(images), 1), batch_size)  # no images: the engine says what is wrong with them
    return np.concatenate([engine.run(images[start : start + batch_size]) for start in starts])
