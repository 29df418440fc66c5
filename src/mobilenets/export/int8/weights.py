"""The steps of int8 weights, per output channel."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["rounded", "weight_steps"]

GREATEST: Final = 127  # -128 is left out: the range is symmetric, so that zero is zero
LEAST: Final = 64  # below half the range, another step that divides this one is in it


def weight_steps(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step of each output channel, (out,), that rounds its weights with the least squared error.

    The greatest weight of a channel is a whole number of steps, from 64 to 127. Nearly always 127 is best; but weights
    that were bytes before, as those of imported TensorFlow Lite files were, lie on a grid of their own, and one of
    these numbers finds it again.

    Args:
        weight: (out, ...).
    """
    flat = weight.reshape(len(weight), -1).astype(np.float32)
    greatest = np.abs(flat).max(axis=1)
    greatest[greatest == 0] = GREATEST  # a channel of zeros: any step will do, one is a good number
    best = np.full(len(flat), np.inf, np.float32)
    steps = greatest / np.float32(GREATEST)
    for number in range(GREATEST, LEAST - 1, -1):
        step = greatest / np.float32(number)
        scaled = flat / step[:, None]
        error = np.square(np.rint(scaled) - scaled).sum(axis=1) * np.square(step)
        better = error < 0.999 * best  # of equals the finest
        best = np.where(better, error, best)
        steps = np.where(better, step, steps)
    made: NDArray[np.float32] = steps.astype(np.float32)
    return made


def rounded(weight: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights as the int8 model has them, in float32."""
    wide = steps.reshape(-1, *[1] * (weight.ndim - 1))
    made: NDArray[np.float32] = (np.clip(np.rint(weight / wide), -GREATEST, GREATEST) * wide).astype(np.float32)
    return made
