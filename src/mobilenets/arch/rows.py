"""The rows a MobileNet's table is made of, and the plain layers each row stands for.

A row is data: widths are absolute, so each can be narrowed on its own (pruning, elastic slicing). Input channels are
not in a row; they are the row before's `out`. `layers` is the one place that says which convolutions a row is: cost
counts them, and the builders in `nets` are tested against it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ..errors import SpecError

__all__ = [
    "Activation",
    "BottleneckRow",
    "ConvRow",
    "FusedRow",
    "Layer",
    "LayerKind",
    "Row",
    "Scaling",
    "SeparableRow",
    "UniversalRow",
]

Activation = Literal["relu", "relu6", "hard_swish", "none"]
LayerKind = Literal["conv", "depthwise", "pointwise", "linear"]

# What the width multiplier does to a row: "width" scales it both ways; "widen" only when alpha > 1, as the papers do
# to the last layers (V2 section 4, V3's reference code).
Scaling = Literal["width", "widen"]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One convolution or linear layer, the unit that is counted."""

    name: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
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


class ConvRow(msgspec.Struct, frozen=True, kw_only=True, tag="conv", forbid_unknown_fields=True):
    """A full convolution, norm, activation. The stem, and the 1x1 convolution at the end of V2 and V3."""

    out: int
    kernel: int = 3
    stride: int = 1
    act: Activation = "relu6"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        _check("conv", out=self.out, kernel=self.kernel, stride=self.stride)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        kind: LayerKind = "conv" if self.kernel > 1 else "pointwise"
        return (
            Layer(
                name="conv",
                kind=kind,
                in_channels=in_channels,
                out_channels=self.out,
                kernel=self.kernel,
                stride=self.stride,
            ),
        )

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output: never."""
        return False


class SeparableRow(msgspec.Struct, frozen=True, kw_only=True, tag="separable", forbid_unknown_fields=True):
    """Depthwise convolution then pointwise convolution, each with norm and activation (V1 section 3.1, Figure 3)."""

    out: int
    kernel: int = 3
    stride: int = 1
    act: Activation = "relu6"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        _check("separable", out=self.out, kernel=self.kernel, stride=self.stride)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        return (
            _depthwise(in_channels, kernel=self.kernel, stride=self.stride),
            _pointwise("project", in_channels, self.out),
        )

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output: never."""
        return False


class BottleneckRow(msgspec.Struct, frozen=True, kw_only=True, tag="bottleneck", forbid_unknown_fields=True):
    """Inverted residual with linear bottleneck (V2 section 3.3), with squeeze-and-excite where V3 has it (section 5.3).

    Expand 1x1, depthwise, [squeeze-and-excite], project 1x1 without activation; the input is added where the stride
    is 1 and the widths agree.
    """

    out: int
    expanded: int | None  # channels of the depthwise convolution; None: no expansion layer, so the input's
    kernel: int = 3
    stride: int = 1
    act: Activation = "relu6"
    squeezed: int | None = None  # channels between squeeze and excite; None: no squeeze-and-excite
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        _check("bottleneck", out=self.out, kernel=self.kernel, stride=self.stride)
        for field in ("expanded", "squeezed"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise _row_error("bottleneck", field, value, "at least 1 channel, or null for none")

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        width = self.width(in_channels)
        layers: list[Layer] = []
        if self.expanded is not None:
            layers.append(_pointwise("expand", in_channels, width))
        layers.append(_depthwise(width, kernel=self.kernel, stride=self.stride))
        if self.squeezed is not None:
            for name, before, after in (("squeeze", width, self.squeezed), ("excite", self.squeezed, width)):
                layers.append(
                    Layer(
                        name=name,
                        kind="pointwise",
                        in_channels=before,
                        out_channels=after,
                        bias=True,
                        norm=False,
                        on="vector",
                    )
                )
        layers.append(_pointwise("project", width, self.out))
        return tuple(layers)

    def width(self, in_channels: int) -> int:
        """Channels of the depthwise convolution."""
        return in_channels if self.expanded is None else self.expanded

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and in_channels == self.out


class FusedRow(msgspec.Struct, frozen=True, kw_only=True, tag="fused", forbid_unknown_fields=True):
    """Fused inverted bottleneck (V4 section 3): a full convolution expands, a pointwise one projects, linearly."""

    out: int
    expanded: int
    kernel: int = 3
    stride: int = 1
    act: Activation = "relu"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        _check("fused", out=self.out, kernel=self.kernel, stride=self.stride, expanded=self.expanded)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        expand = Layer(
            name="expand",
            kind="conv",
            in_channels=in_channels,
            out_channels=self.expanded,
            kernel=self.kernel,
            stride=self.stride,
        )
        return expand, _pointwise("project", self.expanded, self.out)

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and in_channels == self.out


class UniversalRow(msgspec.Struct, frozen=True, kw_only=True, tag="universal", forbid_unknown_fields=True):
    """Universal inverted bottleneck (V4 section 3, Figure 4).

    [Depthwise `start_kernel`], expand 1x1, [depthwise `middle_kernel`], project 1x1. The expansion and the middle
    activate; the start and the projection do not. The stride is the middle's where there is one, else the start's.
    With the middle only it is V2's block, with the start only ConvNeXt's, with none a feed-forward network.
    """

    out: int
    expanded: int
    start_kernel: int | None = None  # None: no depthwise convolution before the expansion
    middle_kernel: int | None = None  # None: none behind it
    stride: int = 1
    act: Activation = "relu"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        _check("universal", out=self.out, kernel=self.start_kernel or 1, stride=self.stride, expanded=self.expanded)
        _check("universal", out=self.out, kernel=self.middle_kernel or 1, stride=self.stride, expanded=self.expanded)
        if self.stride > 1 and self.start_kernel is None and self.middle_kernel is None:
            raise _row_error("universal", "stride", self.stride, "1 where there is no depthwise convolution")

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        layers: list[Layer] = []
        if self.start_kernel is not None:
            stride = 1 if self.middle_kernel is not None else self.stride
            layers.append(_depthwise(in_channels, kernel=self.start_kernel, stride=stride, name="start"))
        layers.append(_pointwise("expand", in_channels, self.expanded))
        if self.middle_kernel is not None:
            layers.append(_depthwise(self.expanded, kernel=self.middle_kernel, stride=self.stride, name="middle"))
        layers.append(_pointwise("project", self.expanded, self.out))
        return tuple(layers)

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and in_channels == self.out


Row: TypeAlias = ConvRow | SeparableRow | BottleneckRow | FusedRow | UniversalRow


def _depthwise(channels: int, *, kernel: int, stride: int, name: str = "depthwise") -> Layer:
    return Layer(
        name=name,
        kind="depthwise",
        in_channels=channels,
        out_channels=channels,
        kernel=kernel,
        stride=stride,
        groups=channels,
    )


def _pointwise(name: str, in_channels: int, out_channels: int) -> Layer:
    return Layer(name=name, kind="pointwise", in_channels=in_channels, out_channels=out_channels)


def _check(row: str, *, out: int, kernel: int, stride: int, expanded: int = 1) -> None:
    if expanded < 1:
        raise _row_error(row, "expanded", expanded, "at least 1 channel")
    if out < 1:
        raise _row_error(row, "out", out, "at least 1 channel")
    if kernel < 1 or kernel % 2 == 0:
        raise _row_error(row, "kernel", kernel, "an odd size: 1, 3, 5, 7 ...")
    if stride not in (1, 2):
        raise _row_error(row, "stride", stride, "1 or 2")


def _row_error(row: str, field: str, got: int, wanted: str) -> SpecError:
    return SpecError(f"a {row} row has {field} = {got}", wanted=wanted, do=f"correct {field} in that row")
