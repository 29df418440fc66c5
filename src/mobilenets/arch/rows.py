"""The rows a MobileNet's table is made of, and the plain layers each row stands for.

A row is data: widths are absolute, so each can be narrowed on its own (pruning, elastic slicing). Input channels are
not in a row; they are the row before's `out`. `layers` is the one place that says which convolutions a row is: cost
counts them, and the builders in `nets` are tested against it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from .layers import Activation, Layer, LayerKind, check_row, depthwise, pointwise, row_error, scale

__all__ = [
    "Activation",
    "AttentionRow",
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

# What the width multiplier does to a row: "width" scales it both ways; "widen" only when alpha > 1, as the papers do
# to the last layers (V2 section 4, V3's reference code).
Scaling = Literal["width", "widen"]


class ConvRow(msgspec.Struct, frozen=True, kw_only=True, tag="conv", forbid_unknown_fields=True):
    """A full convolution, norm, activation. The stem, and the 1x1 convolution at the end of V2 and V3."""

    out: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    act: Activation = "relu6"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths, kernels = {"out": self.out}, {"kernel": self.kernel}
        check_row("conv", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)

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
                dilation=self.dilation,
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
    dilation: int = 1
    act: Activation = "relu6"
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths, kernels = {"out": self.out}, {"kernel": self.kernel}
        check_row("separable", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        return (
            depthwise(in_channels, kernel=self.kernel, stride=self.stride, dilation=self.dilation),
            pointwise("project", in_channels, self.out),
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
    dilation: int = 1
    act: Activation = "relu6"
    squeezed: int | None = None  # channels between squeeze and excite; None: no squeeze-and-excite
    shortcut: bool = True  # add the input to the output where stride and widths allow it
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths = {"out": self.out, "expanded": self.expanded, "squeezed": self.squeezed}
        kernels = {"kernel": self.kernel}
        check_row("bottleneck", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        width = self.width(in_channels)
        layers: list[Layer] = []
        if self.expanded is not None:
            layers.append(pointwise("expand", in_channels, width))
        layers.append(depthwise(width, kernel=self.kernel, stride=self.stride, dilation=self.dilation))
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
        layers.append(pointwise("project", width, self.out))
        return tuple(layers)

    def width(self, in_channels: int) -> int:
        """Channels of the depthwise convolution."""
        return in_channels if self.expanded is None else self.expanded

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.shortcut and self.stride == 1 and in_channels == self.out


class FusedRow(msgspec.Struct, frozen=True, kw_only=True, tag="fused", forbid_unknown_fields=True):
    """Fused inverted bottleneck (V4 section 3): a full convolution expands, a pointwise one projects, linearly."""

    out: int
    expanded: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    act: Activation = "relu"
    shortcut: bool = True  # add the input to the output where stride and widths allow it
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths, kernels = {"out": self.out, "expanded": self.expanded}, {"kernel": self.kernel}
        check_row("fused", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        expand = Layer(
            name="expand",
            kind="conv",
            in_channels=in_channels,
            out_channels=self.expanded,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
        )
        return expand, pointwise("project", self.expanded, self.out)

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.shortcut and self.stride == 1 and in_channels == self.out


class UniversalRow(msgspec.Struct, frozen=True, kw_only=True, tag="universal", forbid_unknown_fields=True):
    """Universal inverted bottleneck (V4 section 3, Figure 4).

    [Depthwise `start_kernel`], expand 1x1, [depthwise `middle_kernel`], project 1x1. The expansion and the middle
    activate; the start and the projection do not. The stride is the middle's where there is one, else the start's.
    With the middle only it is V2's block, with the start only ConvNeXt's, with none a feed-forward network. The hybrid
    networks end it with a layer scale.
    """

    out: int
    expanded: int
    start_kernel: int | None = None  # None: no depthwise convolution before the expansion
    middle_kernel: int | None = None  # None: none behind it
    stride: int = 1
    dilation: int = 1
    act: Activation = "relu"
    shortcut: bool = True  # add the input to the output where stride and widths allow it
    layer_scale: bool = False  # a trained factor per channel, before the input is added
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths = {"out": self.out, "expanded": self.expanded}
        kernels = {"start_kernel": self.start_kernel, "middle_kernel": self.middle_kernel}
        check_row("universal", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)
        if self.stride > 1 and self.start_kernel is None and self.middle_kernel is None:
            raise row_error("universal", "stride", self.stride, "1 where there is no depthwise convolution")

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        layers: list[Layer] = []
        if self.start_kernel is not None:
            stride = 1 if self.middle_kernel is not None else self.stride
            layers.append(
                depthwise(in_channels, kernel=self.start_kernel, stride=stride, dilation=self.dilation, name="start")
            )
        layers.append(pointwise("expand", in_channels, self.expanded))
        if self.middle_kernel is not None:
            layers.append(
                depthwise(
                    self.expanded,
                    kernel=self.middle_kernel,
                    stride=self.stride,
                    dilation=self.dilation,
                    name="middle",
                )
            )
        layers.append(pointwise("project", self.expanded, self.out))
        if self.layer_scale:
            layers.append(scale(self.out))
        return tuple(layers)

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.shortcut and self.stride == 1 and in_channels == self.out


class AttentionRow(msgspec.Struct, frozen=True, kw_only=True, tag="attention", forbid_unknown_fields=True):
    """Mobile multi-query attention (V4 section 3.2): every pixel attends to the whole map.

    Norm; queries of `heads` heads, and one set of keys and values for all heads, by 1x1 convolutions; softmax of
    query times key over the square root of `key_width`; project 1x1; [layer scale]. With `keys_stride` 2, a depthwise
    convolution of `kernel` with that stride and a norm comes before the keys, and another before the values. Only the
    norms before the projections exist: the projections themselves have neither norm, bias nor activation.
    """

    out: int
    heads: int
    key_width: int = 64  # channels of a key, and of a query of one head
    value_width: int = 64  # channels of a value
    keys_stride: int = 1  # pixels per key and per value, per side
    kernel: int = 3  # of the convolution that shrinks; nothing where keys_stride is 1
    dilation: int = 1  # of the same convolution
    layer_scale: bool = False  # a trained factor per channel, before the input is added
    shortcut: bool = True  # add the input to the output where the widths allow it
    scaling: Scaling = "width"

    def __post_init__(self) -> None:
        widths = {
            "out": self.out,
            "heads": self.heads,
            "key_width": self.key_width,
            "value_width": self.value_width,
        }
        kernels = {"kernel": self.kernel if self.keys_stride > 1 else None}
        check_row("attention", widths=widths, kernels=kernels, stride=self.stride, dilation=self.dilation)
        if self.keys_stride not in (1, 2):
            raise row_error("attention", "keys_stride", self.keys_stride, "1 or 2")

    @property
    def stride(self) -> int:
        """1: an attention keeps the map's size."""
        return 1

    def layers(self, in_channels: int) -> tuple[Layer, ...]:
        """The layers of this row for an input of `in_channels`."""
        norm = Layer(name="norm", kind="norm", in_channels=in_channels, out_channels=in_channels, groups=in_channels)
        layers = [norm, pointwise("query", in_channels, self.heads * self.key_width, norm=False, shrunk=1)]
        for name, width in (("key", self.key_width), ("value", self.value_width)):
            if self.keys_stride > 1:
                layers.append(
                    depthwise(
                        in_channels,
                        kernel=self.kernel,
                        stride=self.keys_stride,
                        dilation=self.dilation,
                        name=f"{name}_down",
                        shrunk=1,
                    )
                )
            layers.append(pointwise(name, in_channels, width, norm=False, shrunk=self.keys_stride))
        layers.append(
            Layer(
                name="attend",
                kind="attention",
                in_channels=self.heads * self.key_width,
                out_channels=self.heads * self.value_width,
                groups=self.heads,
                norm=False,
                shrunk=1,
                keys_stride=self.keys_stride,
            )
        )
        layers.append(pointwise("project", self.heads * self.value_width, self.out, norm=False))
        if self.layer_scale:
            layers.append(scale(self.out))
        return tuple(layers)

    def residual(self, in_channels: int) -> bool:
        """Whether the input is added to the output."""
        return self.shortcut and in_channels == self.out


Row: TypeAlias = ConvRow | SeparableRow | BottleneckRow | FusedRow | UniversalRow | AttentionRow
