"""Any number of labels per image: each label is a question of its own, answered by yes or no."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import average_precisions, f1_scores, label_loss, mean_of_known
from .task import Targets, TaskFunctions

__all__ = ["FUNCTIONS"]


def loss(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Sigmoid cross-entropy in float32, summed over the labels, mean over the batch.

    The sum lets every label be learned as fast as if it were a problem of two classes by itself. Cells that are not
    known add nothing, and so do those of blended images of which either is not known; other blends are those of the
    targets (Zhang et al. 2018, section 2). Smoothing moves targets towards a half (Szegedy et al. 2016, section 7, for
    two classes).
    """
    wanted = targets.classes
    if targets.mixed is not None and targets.share is not None:
        share = targets.share[:, None]
        wanted = share * wanted + (1 - share) * targets.mixed
    known = ~wanted.isnan()
    wanted = torch.where(known, wanted * (1 - smoothing) + 0.5 * smoothing, 0.0)
    each = F.binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=targets.weights, reduction="none")
    return torch.where(known, each, 0.0).sum() / len(logits)


def answers(own: Tensor, said: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher, student) of each label's softened yes and no, in nats, summed over labels, mean over the batch.

    Hinton et al. 2015, section 2, for answers that exclude nothing. Also of cells that nobody labelled.
    """
    own, said = own.float() / temperature, said.float() / temperature
    yes = said.sigmoid() * (F.logsigmoid(said) - F.logsigmoid(own))
    no = (-said).sigmoid() * (F.logsigmoid(-said) - F.logsigmoid(-own))
    return temperature**2 * (yes + no).sum() / len(own)


def metrics(logits: NDArray[np.float32], targets: NDArray[Any]) -> dict[str, float]:
    """Sigmoid cross-entropy in nats, summed over labels ("loss"); in [0, 1] means over labels of average precision
    ("map") and of F1 at a half ("f1")."""
    return {
        "loss": label_loss(logits, targets),
        "map": mean_of_known(average_precisions(logits, targets)),
        "f1": mean_of_known(f1_scores(logits, targets)),
    }


FUNCTIONS = TaskFunctions(loss=loss, answers=answers, metrics=metrics, goal="map")
