"""`Layer`: what rows and heads stand for, the unit that is counted, built and emitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ..errors import SpecError

__all__ = ["Activation", "Layer", "LayerKind", "check_row", "depthwise", "pointwise", "row_error"]

Activation = Literal["relu", "relu6", "hard_swish", "none"]
LayerKind = Literal["conv", "depthwise", "pointwise", "linear"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One convolution or linear layer, the unit that is counted."""

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

    @property
    def weights(self) -> int:
        """Multiplications per output position; also the number of weights."""
        return self.kernel * self.kernel * self.in_channels // self.groups * self.out_channels

    @property
    def parameters(self) -> int:
        """Trainable numbers: weights, bias, and the norm's scale and shift. Running statistics do not count."""
        return self.weights + (self.out_channels if self.bias else 0) + (2 * self.out_channels if self.norm else 0)

    @property
    def reach(self) -> int:
        """Pixels from the first tap of the kernel to its last, both included; what padding goes by."""
        return self.dilation * (self.kernel - 1) + 1


def depthwise(channels: int, *, kernel: int, stride: int = 1, dilation: int = 1, name: str = "depthwise") -> Layer:
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
    )


def pointwise(name: str, in_channels: int, out_channels: int) -> Layer:
    """A 1x1 convolution with a norm."""
    return Layer(name=name, kind="pointwise", in_channels=in_channels, out_channels=out_channels)


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
    return SpecError(f"a {row} row has {field} = {got}", wanted=wanted, do=f"correct {field} in that row")
