"""What a task is: plain functions over logits and what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Targets", "TaskFunctions"]


@dataclass(frozen=True)
class Targets:
    """What is right for a batch of B images.

    `mixed` and `share` belong together: where images were blended, `share` of each is as `classes` says, the rest as
    `mixed` says.
    """

    classes: Tensor  # int64 (B,); or float32 (B, K): 1 has the label, 0 has it not, NaN is not known
    mixed: Tensor | None = None  # likewise
    share: Tensor | None = None  # float32 (B,) in [0, 1]
    # float32 (K,): how much an image of each class counts, or, of any number of labels, a label's 1; None: all alike
    weights: Tensor | None = None


@dataclass(frozen=True)
class TaskFunctions:
    """A task as plain functions.

    `loss` takes logits (B, K), targets of B images and the label smoothing, and gives a scalar.
    `answers` takes a student's logits (B, K), a teacher's, and a temperature, and gives how far the softened answers
    are from each other, a scalar.
    `metrics` takes logits (N, K) and the targets of N images as arrays and gives numbers by name; `goal` names the one
    that is to be maximised.
    """

    loss: Callable[[Tensor, Targets, float], Tensor]
    answers: Callable[[Tensor, Tensor, float], Tensor]
    metrics: Callable[[NDArray[np.float32], NDArray[Any]], dict[str, float]]
    goal: str
