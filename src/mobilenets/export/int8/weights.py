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
            ones, nor where the arithmetic is float32.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float32)
    greatest = np.abs(flat).max(axis=1)
    greatest[greatest == 0] = GREATEST  # a channel of zeros: any step will do, one is a good number
    best = np.full(len(flat), np.inf, np.float32)
    steps = greatest / np.float32(GREATEST)
    in_pairs = in_pairs and flat.shape[1] > 1
    few = np.count_nonzero(flat, axis=1) <= FEW
    neighbours = _neighbours(weight.shape) if in_pairs else None
    for number in range(GREATEST, LEAST - 1, -1):
        step = greatest / np.float32(number)
        scaled = flat / step[:, None]
        whole = np.rint(scaled)
        error = np.square(whole - scaled).sum(axis=1) * np.square(step)
        if neighbours is not None:
            error[_too_great(whole, neighbours, few=few)] = np.inf
        better = error < 0.999 * best  # of equals the finest
        best = np.where(better, error, best)
        steps = np.where(better, step, steps)
    made: NDArray[np.float32] = steps.astype(np.float32)
    return made


def _neighbours(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Which weights of a filter (in, ...) are multiplied and added at once, (pairs, 2), as places in it.

    Engines lay a filter out with its input channels innermost. Pairs begin at each even channel of a tap or, where all
    taps lie in one row (which makes a difference for an odd number of channels), at each even place of it.
    """
    places = np.moveaxis(np.arange(int(np.prod(shape[1:]))).reshape(shape[1], -1), 0, -1)  # (taps, in)
    row = places.ravel()
    channels, whole = places.shape[1] // 2 * 2, len(row) // 2 * 2
    return np.unique(np.concatenate([places[:, :channels].reshape(-1, 2), row[:whole].reshape(-1, 2)]), axis=0)


def _too_great(
    whole: NDArray[np.float32], neighbours: NDArray[np.intp], *, few: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which filters (out,) have two weights that together exceed `SUM`, in either direction.

    Any two, where a filter has `few`: a stem's columns are laid out anew for int8, or not, as suits the engine.
    """
    sums = whole[:, neighbours[:, 0]] + whole[:, neighbours[:, 1]]
    found: NDArray[np.bool_] = np.abs(sums).max(axis=1) > SUM
    ends = np.partition(whole[few], (1, -2), axis=1)
    found[few] = np.maximum(-ends[:, :2].sum(axis=1), ends[:, -2:].sum(axis=1)) > SUM
    return found


def rounded(weight: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights as the int8 model has them, in float32."""
    wide = steps.reshape(-1, *[1] * (weight.ndim - 1))
    made: NDArray[np.float32] = (np.clip(np.rint(weight / wide), -GREATEST, GREATEST) * wide).astype(np.float32)
    return made
