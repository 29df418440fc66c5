"""Classification: one label per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import balanced_accuracy, confusion, expected_calibration_error, softmax, top_k_accuracy

__all__ = ["FUNCTIONS", "Targets", "TaskFunctions"]


@dataclass(frozen=True)
class Targets:
    """What is right for a batch of B images.

    `mixed` and `share` belong together: where images were blended, `share` of each is of class `classes`, the rest of
    class `mixed`.
    """

    classes: Tensor  # int64 (B,)
    mixed: Tensor | None = None  # int64 (B,)
    share: Tensor | None = None  # float32 (B,) in [0, 1]
    weights: Tensor | None = None  # float32 (K,), how much an image of each class counts; None: all alike


@dataclass(frozen=True)
class TaskFunctions:
    """A task as plain functions.

    `loss` takes logits (B, classes), targets of B images and the label smoothing, and gives a scalar.
    `metrics` takes logits (N, classes) and targets (N,) as arrays and gives numbers by name; `goal` names the one
    that is to be maximised.
    """

    loss: Callable[[Tensor, Targets, float], Tensor]
    metrics: Callable[[NDArray[np.float32], NDArray[np.int64]], dict[str, float]]
    goal: str


def loss(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in float32, mean over the batch.

    Blended images have the blend of the losses for their two classes (Zhang et al. 2018, section 2).
    """
    logits = logits.float()
    if targets.mixed is None and targets.weights is None:
        return F.cross_entropy(logits, targets.classes, label_smoothing=smoothing)
    each = _each(logits, targets.classes, targets.weights, smoothing)
    if targets.mixed is not None and targets.share is not None:
        other = _each(logits, targets.mixed, targets.weights, smoothing)
        each = targets.share * each + (1 - targets.share) * other
    return each.mean()


def metrics(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, float]:
    """Mean cross-entropy in nats ("loss"); in [0, 1] top-1, top-5 and balanced accuracy and the calibration error."""
    probabilities = softmax(logits)
    chosen = probabilities[np.arange(len(targets)), targets]
    matrix = confusion(logits.argmax(axis=1), targets, classes=logits.shape[1])
    return {
        "loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
        "top1": top_k_accuracy(logits, targets, k=1),
        "top5": top_k_accuracy(logits, targets, k=min(5, logits.shape[1])),
        "balanced": balanced_accuracy(matrix),
        "calibration_error": expected_calibration_error(probabilities, targets),
    }


def _each(logits: Tensor, classes: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """The loss of each image (B,). An image counts as its class says; its smoothed share is not weighed again."""
    each = F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")
    return each if weights is None else each * weights[classes]


FUNCTIONS = TaskFunctions(loss=loss, metrics=metrics, goal="top1")
