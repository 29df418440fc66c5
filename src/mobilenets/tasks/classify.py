"""Classification: one label per image."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import balanced_accuracy, confusion, expected_calibration_error, softmax, top_k_accuracy
from .task import Targets, TaskFunctions

__all__ = ["FUNCTIONS"]


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


def answers(own: Tensor, said: Tensor, temperature: float) -> Tensor:
    """How far a student's logits (B, K) are from the teacher's, both softened: T^2 KL(teacher, student), in nats.

    Gradients of softened answers shrink with the square of the temperature, which the factor makes good (Hinton et al.
    2015, section 2).
    """
    soft = F.kl_div(
        F.log_softmax(own.float() / temperature, dim=1),
        F.log_softmax(said / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


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


FUNCTIONS = TaskFunctions(loss=loss, answers=answers, metrics=metrics, goal="top1")
