"""The steps of int8 weights, per output channel."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["rounded", "weight_steps"]

GREATEST: Final = 127  # -128 is left out: the range is symmetric, so that zero is zero
LEAST: Final = 64  # below half the range, another step that divides this one is in it
SUM: Final = 128  # of two weights: 255 times that is the last that 16 bits with a sign hold
FEW: Final = 32  # weights of a filter that is a stem's: 27 for colours


def weight_steps(weight: NDArray[np.float32], *, in_pairs: bool) -> NDArray[np.float32]:
    """The step of each output channel, (out,), that rounds its weights with the least squared error.

    The greatest weight of a channel is a whole number of steps, from 64 to 127. Nearly always 127 is best; but weights
    that were bytes before, as those of imported TensorFlow Lite files were, lie on a grid of their own, and one of
    these numbers finds it again.

    x86 processors with AVX2 or AVX-512 and no VNNI multiply bytes and add two such products in 16 bits, which cuts them
    off; there the same file would answer otherwise (ONNX Runtime's documentation on quantisation, "When and why do I
    need to try U8U8?"). So no two weights that are added at once are more than 128 steps together. That costs less than
    to leave out a whole bit, which is the usual remedy: greatest weights seldom lie side by side.

    Args:
        weight: (out, in, ...).
        in_pairs: products are added in pairs of neighbouring inputs: in matrices and convolutions, but not in depthwise
            ones, nor where the weights are unsigned or the arithmetic is float32.
    """
    # A filter a row, as engines lay it out: tap by tap, input channels innermost.
    rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1).astype(np.float32)
    greatest = np.abs(rows).max(axis=1)
    greatest[greatest == 0] = GREATEST  # a channel of zeros: any step will do, one is a good number
    best = np.full(len(rows), np.inf, np.float32)
    steps = greatest / np.float32(GREATEST)
    for number in range(GREATEST, LEAST - 1, -1):
        step = greatest / np.float32(number)
        scaled = rows / step[:, None]
        whole = np.rint(scaled)
        error = np.square(whole - scaled).sum(axis=1) * np.square(step)
        better = error < 0.999 * best  # of equals the finest
        if in_pairs and better.any():
            better[better] = ~_too_great(whole[better], inputs=weight.shape[1])
        best = np.where(better, error, best)
        steps = np.where(better, step, steps)
    made: NDArray[np.float32] = steps.astype(np.float32)
    return made


def _too_great(whole: NDArray[np.float32], *, inputs: int) -> NDArray[np.bool_]:
    """In which rows (out, taps * inputs) two weights that are added at once together exceed `SUM`, in either direction.

    Pairs begin at each even channel of a tap or, where all taps lie in one row, at each even place of it, which makes a
    difference for an odd number of channels. A stem's columns are laid out anew for int8, or not, as suits the engine,
    with zeros between; so of `FEW` weights that are not zero, any two that follow each other count.
    """
    count, length = whole.shape
    taps = whole.reshape(count, -1, inputs)[:, :, : inputs // 2 * 2]
    line = whole[:, : length // 2 * 2]
    most = np.zeros(count, np.float32)
    for laid in (taps, line):
        most = np.maximum(most, np.abs(laid.reshape(count, -1, 2).sum(axis=2)).max(axis=1, initial=0))
    few = np.count_nonzero(whole, axis=1) <= FEW
    closed = np.take_along_axis(whole[few], np.argsort(whole[few] == 0, axis=1, kind="stable"), axis=1)
    most[few] = np.abs(closed[:, 1:] + closed[:, :-1]).max(axis=1, initial=0)
    found: NDArray[np.bool_] = most > SUM
    return found


def rounded(weight: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights as the int8 model has them, in float32."""
    wide = steps.reshape(-1, *[1] * (weight.ndim - 1))
    made: NDArray[np.float32] = (np.clip(np.rint(weight / wide), -GREATEST, GREATEST) * wide).astype(np.float32)
    return made
