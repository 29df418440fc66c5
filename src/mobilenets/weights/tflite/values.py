"""What the tensors of a graph stand for: small frozen terms over the image, each knowing what it is made of.

Weights are float64 in torch's layout, maps are thought of as (H, W, C) whatever the file stores. Two tensors are the
same value only when they are the same object, which is how a shortcut is told from a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Act",
    "Affine",
    "Clip",
    "Conv",
    "ConvKind",
    "Gated",
    "HardSwish",
    "Image",
    "Mean",
    "Other",
    "Padded",
    "Pads",
    "Sum",
    "Turned",
    "Unit",
    "Value",
    "affine",
    "clip",
    "folded",
    "is_vector",
    "parents",
    "peel",
    "product",
    "same_pads",
]

Floats: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int, int]  # height, width, channels; a vector is 1 x 1
Pads: TypeAlias = tuple[int, int, int, int]  # top, bottom, left, right; pixels
ConvKind = Literal["conv", "depthwise"]

NEAR = 1e-3  # of a constant: slim writes 1/6 as 0.16667
NEAR_THREE = 2e-2  # of the 3 in a hard sigmoid, which int8 files round


@dataclass(frozen=True, eq=False)
class Image:
    """The input, as the file's own numbers: after dequantisation where it is quantised."""

    size: Size
    at: int = -1


@dataclass(frozen=True, eq=False)
class Affine:
    """scale * of + shift, per channel or with one number each."""

    at: int
    of: Value
    scale: Floats
    shift: Floats

    @property
    def size(self) -> Size:
        """As its input's."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution, or on a vector a linear layer. weight (out, in / groups, k, k), bias (out,)."""

    at: int
    of: Value
    kind: ConvKind
    weight: Floats
    bias: Floats
    stride: int
    dilation: int
    pads: Pads
    size: Size


@dataclass(frozen=True, eq=False)
class Clip:
    """min(max(of, low), high): ReLU and its kin."""

    at: int
    of: Value
    low: float
    high: float

    @property
    def size(self) -> Size:
        """As its input's."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class HardSwish:
    """of * relu6(of + 3) / 6."""

    at: int
    of: Value

    @property
    def size(self) -> Size:
        """As its input's."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class Padded:
    """Zeros around a map."""

    at: int
    of: Value
    pads: Pads

    @property
    def size(self) -> Size:
        """Grown by the pads."""
        (height, width, channels), (top, bottom, left, right) = self.of.size, self.pads
        return height + top + bottom, width + left + right, channels


@dataclass(frozen=True, eq=False)
class Sum:
    """Two values added."""

    at: int
    left: Value
    right: Value

    @property
    def size(self) -> Size:
        """As its inputs'."""
        return self.left.size


@dataclass(frozen=True, eq=False)
class Gated:
    """of * hard_sigmoid(gate), the gate a vector: the end of a squeeze-and-excite."""

    at: int
    of: Value
    gate: Value

    @property
    def size(self) -> Size:
        """As its map's."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over a whole map, a vector."""

    at: int
    of: Value

    @property
    def size(self) -> Size:
        """1 x 1 x channels."""
        return 1, 1, self.of.size[2]


@dataclass(frozen=True, eq=False)
class Unit:
    """A vector divided by its Euclidean length."""

    at: int
    of: Value

    @property
    def size(self) -> Size:
        """As its input's."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class Turned:
    """A map whose sides the file keeps in another order: `order[i]` is where its side i stands in (N, H, W, C)."""

    at: int
    of: Value
    order: tuple[int, ...]

    @property
    def size(self) -> Size:
        """As in (H, W, C)."""
        return self.of.size


@dataclass(frozen=True, eq=False)
class Other:
    """What an operator gives that no MobileNet has, or that stands at the end only: softmax, argmax, resizing ..."""

    at: int
    kind: str
    of: tuple[Value, ...]
    why: str = ""  # what about it is not understood
    size: Size = (0, 0, 0)


Act: TypeAlias = Clip | HardSwish
Value: TypeAlias = Image | Affine | Conv | Act | Padded | Sum | Gated | Mean | Unit | Turned | Other


def parents(value: Value) -> tuple[Value, ...]:
    """What a value is made of."""
    match value:
        case Image():
            return ()
        case Sum(left=left, right=right):
            return left, right
        case Gated(of=of, gate=gate):
            return of, gate
        case Other(of=several):
            return several
        case _:
            return (value.of,)


def affine(at: int, of: Value, scale: Floats | float, shift: Floats | float) -> Value:
    """scale * of + shift; what it is an affine function of, where the two undo each other."""
    whole = Affine(at, of, np.atleast_1d(np.asarray(scale, np.float64)), np.atleast_1d(np.asarray(shift, np.float64)))
    base, scales, shifts = peel(whole)
    return base if (np.abs(scales - 1) < NEAR).all() and not shifts.any() and _may_round(base, scales) else whole


def clip(at: int, of: Value, low: float, high: float) -> Value:
    """of, kept between two bounds; one clip of another is one."""
    if isinstance(of, Clip) and max(of.low, low) < min(of.high, high):
        return Clip(at, of.of, max(of.low, low), min(of.high, high))
    return Clip(at, of, low, high)


def peel(value: Value) -> tuple[Value, Floats, Floats]:
    """A value as scale * base + shift, with a base that is not affine."""
    scale, shift = np.ones(1), np.zeros(1)
    while isinstance(value, Affine):
        scale, shift = scale * value.scale, scale * value.shift + shift
        value = value.of
    return value, scale, shift


def folded(value: Value) -> Value:
    """A norm that the file left behind a convolution, folded into it; anything else as it is."""
    base, scale, shift = peel(value)
    if base is value or not isinstance(base, Conv):
        return value
    return Conv(
        at=value.at,
        of=base.of,
        kind=base.kind,
        weight=base.weight * scale.reshape(-1, 1, 1, 1),
        bias=base.bias * scale + shift,
        stride=base.stride,
        dilation=base.dilation,
        pads=base.pads,
        size=base.size,
    )


def is_vector(value: Value) -> bool:
    """Whether a value comes after a mean over the map."""
    while not isinstance(value, Mean | Image | Sum | Gated | Other):
        value = value.of
    return isinstance(value, Mean)


def same_pads(side: int, *, reach: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME along one side: zeros before and behind."""
    total = max((-(-side // stride) - 1) * stride + reach - side, 0)
    return total // 2, total - total // 2


def product(at: int, left: Value, right: Value) -> Value | None:
    """left * right where that is a hard swish or the end of a squeeze-and-excite; None where it is neither.

    A hard sigmoid is relu6(x + 3) / 6 in some files and clip(x / 6 + 1/2, 0, 1) in others, the division may stand
    behind the product, and the 3 may be in the bias of the convolution before. All are clip(inner, 0, high) * factor,
    with inner = high / 6 * (x + 3), which is high * factor * hard_sigmoid(x).
    """
    for gate, other in ((left, right), (right, left)):
        base, factor, none = peel(gate)
        if not isinstance(base, Clip) or base.low != 0 or not np.isfinite(base.high):
            continue
        if none.any() or factor.size != 1:
            continue
        inner = affine(at, base.of, 6 / base.high, -3.0)  # the x above
        whole = float(base.high * factor[0])
        if _same(inner, other):
            return affine(at, HardSwish(at, other), whole, 0.0)
        if is_vector(base.of) and not is_vector(other):
            return affine(at, Gated(at, other, inner), whole, 0.0)
    return None


def _may_round(base: Value, scales: Floats) -> bool:
    """Constants of activations are rounded in files; those of weights and images are meant."""
    return isinstance(base, HardSwish | Gated) or bool((scales == 1).all())


def _same(one: Value, other: Value) -> bool:
    """Whether two values are the same function of the same value, but for rounded constants."""
    (base, scale, shift), (base_, scale_, shift_) = peel(one), peel(other)
    return (
        base is base_
        and bool((np.abs(scale - scale_) <= NEAR * np.abs(scale_)).all())
        and bool((np.abs(shift - shift_) <= NEAR_THREE).all())
    )
