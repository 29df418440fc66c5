"""`Layer`: what rows and heads stand for, the unit that is counted, built and emitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ..errors import SpecError

__all__ = ["Activation", "Layer", "LayerKind", "check_row", "depthwise", "pointwise", "row_error", "same_pads", "scale"]

Activation = Literal["relu", "relu6", "hard_swish", "gelu", "none"]
# "norm" is a norm with no convolution before it and "scale" a factor per channel: neither counts as products, as in the
# papers. "attention" is the two matrix products of an attention, which have no weights.
LayerKind = Literal["conv", "depthwise", "pointwise", "linear", "norm", "scale", "attention"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One convolution, linear layer, or what else has weights or products: the unit that is counted.

    An attention has the queries of all heads as its input channels, the values of all heads as its output channels, and
    the heads as its groups.
    """

    name: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1  # pixels from one tap of the kernel to the next
    groups: int = 1
    bias: bool = False
    norm: bool = True
    on: Literal["map", "vector"] = "map"  # every pixel of the feature map, or once per image (after pooling)
    # Pixels of the row's input per pixel of this layer's, per side. None: it reads what the layer before it gives.
    shrunk: int | None = None
    keys_stride: int = 1  # of an attention: pixels of its input per key, per side

    @property
    def weights(self) -> int:
        """The number of weights; of a convolution or linear layer also its multiplications per output position."""
        if self.kind in ("norm", "attention"):
            return 0
        return self.kernel * self.kernel * self.in_channels // self.groups * self.out_channels

    @property
    def parameters(self) -> int:
        """Trainable numbers: weights, bias, and the norm's scale and shift. Running statistics do not count."""
        return self.weights + (self.out_channels if self.bias else 0) + (2 * self.out_channels if self.norm else 0)

    def mult_adds(self, size: int) -> int:
        """Products of this layer for an output of `size` x `size` pixels."""
        if self.kind in ("norm", "scale"):
            return 0
        if self.kind == "attention":
            return size**2 * self.keys(size) * (self.in_channels + self.out_channels)
        return self.weights * size**2

    def activations(self, in_size: int, out_size: int) -> int:
        """Elements read and written, for maps of so many pixels a side."""
        if self.kind == "scale":
            return 0  # an engine multiplies it into the convolution before it
        ends = self.in_channels * in_size**2 + self.out_channels * out_size**2
        if self.kind == "attention":
            keys, heads = self.keys(in_size), self.groups
            scores = heads * in_size**2 * keys
            return ends + scores + keys * (self.in_channels + self.out_channels) // heads
        return ends

    def keys(self, size: int) -> int:
        """Keys, and values, of an attention over `size` x `size` pixels."""
        return (-(-size // self.keys_stride)) ** 2

    @property
    def reach(self) -> int:
        """Pixels from the first tap of the kernel to its last, both included; what padding goes by."""
        return self.dilation * (self.kernel - 1) + 1


def same_pads(size: int, *, reach: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding: pixels before and after a side of `size` pixels.

    As many as the output size ceil(size / stride) needs; of an odd number the last one stands after.

    Args:
        size: of the input, in pixels.
        reach: of the kernel, `Layer.reach`.
        stride: in pixels.
    """
    total = max(reach - (size % stride or stride), 0)
    return total // 2, total - total // 2


def scale(channels: int) -> Layer:
    """A trained factor per channel (layer scale: Touvron et al. 2021)."""
    return Layer(
        name="layer_scale", kind="scale", in_channels=channels, out_channels=channels, groups=channels, norm=False
    )


def depthwise(
    channels: int,
    *,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    name: str = "depthwise",
    shrunk: int | None = None,
) -> Layer:
    """A depthwise convolution with a norm."""
    return Layer(
        name=name,
        kind="depthwise",
        in_channels=channels,
        out_channels=channels,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        groups=channels,
        shrunk=shrunk,
    )


def pointwise(name: str, in_channels: int, out_channels: int, *, norm: bool = True, shrunk: int | None = None) -> Layer:
    """A 1x1 convolution, with a norm unless told."""
    return Layer(
        name=name, kind="pointwise", in_channels=in_channels, out_channels=out_channels, norm=norm, shrunk=shrunk
    )


def check_row(
    row: str,
    *,
    widths: Mapping[str, int | None],
    kernels: Mapping[str, int | None],
    stride: int,
    dilation: int,
) -> None:
    """What holds for the fields of every row; None is a layer that the row does not have.

    Raises:
        SpecError: names the row's type, the field and its value.
    """
    for field, width in widths.items():
        if width is not None and width < 1:
            raise row_error(row, field, width, "at least 1")
    for field, kernel in kernels.items():
        if kernel is not None and (kernel < 1 or kernel % 2 == 0):
            raise row_error(row, field, kernel, "an odd size: 1, 3, 5, 7 ...")
    if stride not in (1, 2):
        raise row_error(row, "stride", stride, "1 or 2")
    if dilation < 1:
        raise row_error(row, "dilation", dilation, "at least 1 pixel from tap to tap")
    if dilation > 1 and stride > 1:
        raise row_error(row, "dilation", dilation, "1 where the stride is 2: a row either shrinks the map or dilates")
    if dilation > 1 and all(kernel is None or kernel == 1 for kernel in kernels.values()):
        raise row_error(row, "dilation", dilation, "1 where no kernel is wider than 1 pixel")


def row_error(row: str, field: str, got: object, wanted: str) -> SpecError:
    """The error for a field of a row that cannot be."""
    return SpecError(f"the {row} row has {field} = {got}", wanted=wanted, do=f"correct {field} in that row")
