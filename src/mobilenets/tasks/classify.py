"""Classification: one label per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import softmax, top_k_accuracy

__all__ = ["FUNCTIONS", "TaskFunctions"]


@dataclass(frozen=True)
class TaskFunctions:
    """A task as plain functions.

    `loss` takes logits (N, classes), targets (N,) and the label smoothing, and gives a scalar.
    `metrics` takes the same as arrays and gives numbers by name; `goal` names the one that is to be maximised.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor]
    metrics: Callable[[NDArray[np.float32], NDArray[np.int64]], dict[str, float]]
    goal: str


def loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in float32."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def metrics(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, float]:
    """Mean cross-entropy in nats ("loss"), top-1 and top-5 accuracy in [0, 1]."""
    chosen = softmax(logits)[np.arange(len(targets)), targets]
    return {
        "loss": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
        "top1": top_k_accuracy(logits, targets, k=1),
        "top5": top_k_accuracy(logits, targets, k=min(5, logits.shape[1])),
    }


FUNCTIONS = TaskFunctions(loss=loss, metrics=metrics, goal="top1")
