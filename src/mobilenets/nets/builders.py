"""Row -> torch module. The second of the five extension tables; nothing outside it knows the row types' modules.

Child names are the names of the row's layers (`arch.rows`), so a state dict reads like the table:
`rows.3.depthwise.conv.weight`, `rows.3.depthwise.norm.running_mean`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.rows import Activation, BottleneckRow, ConvRow, FusedRow, Layer, Row, SeparableRow, UniversalRow
from ..arch.spec import Norm, Padding
from ..errors import SpecError
from .activations import ReLU, ReLU6
from .depthwise import DepthwiseConv2d

__all__ = [
    "BUILDERS",
    "BottleneckRowModule",
    "ConvNormAct",
    "SqueezeExcite",
    "UniversalRowModule",
    "activation",
    "build_row",
]


def activation(name: Activation) -> nn.Module:
    """The module of an activation's name.

    Raises:
        SpecError: there is no such activation.
    """
    if name == "relu":
        return ReLU()
    if name == "relu6":
        return ReLU6()
    if name == "hard_swish":
        # Not in place: on CPUs, writing bfloat16 over its own input is slower than writing it elsewhere.
        return nn.Hardswish()
    if name == "none":
        return nn.Identity()
    raise SpecError(f"activation is {name!r}", wanted="relu, relu6, hard_swish or none", do="correct act in that row")


class SamePad(nn.Module):
    """TensorFlow's SAME padding: as much as the output size ceil(n / stride) needs, the odd pixel at the end.

    `kernel` is what the kernel spans: with dilation, more than it has taps.
    """

    def __init__(self, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + pad, W + pad)."""
        height, width = (self._total(size) for size in inputs.shape[-2:])
        return F.pad(inputs, (width // 2, width - width // 2, height // 2, height - height // 2))

    def _total(self, size: int) -> int:
        rest = size % self.stride or self.stride
        return max(self.kernel - rest, 0)


class ConvNormAct(nn.Module):
    """One layer of a table as torch runs it: [pad], convolution, [batch norm], activation."""

    def __init__(self, layer: Layer, act: Activation, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        if padding not in ("symmetric", "same"):
            raise SpecError(f"padding is {padding!r}", wanted="'symmetric' or 'same'", do="correct padding in the spec")
        strided = layer.stride > 1
        # With stride 1 and an odd kernel both conventions pad the same, so only strided layers need their own pad.
        self.pad = SamePad(kernel=layer.reach, stride=layer.stride) if padding == "same" and strided else nn.Identity()
        inside = 0 if padding == "same" and strided else layer.reach // 2
        self.conv: nn.Module
        if layer.kind == "depthwise":
            self.conv = DepthwiseConv2d(
                layer.out_channels,
                layer.kernel,
                stride=layer.stride,
                padding=inside,
                dilation=layer.dilation,
                bias=layer.bias,
            )
        else:
            self.conv = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                stride=layer.stride,
                padding=inside,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
        self.norm = (
            nn.BatchNorm2d(layer.out_channels, eps=norm.eps, momentum=norm.momentum) if layer.norm else nn.Identity()
        )
        self.act = activation(act)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        outputs: Tensor = self.act(self.norm(self.conv(self.pad(inputs))))
        return outputs


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite (V3 section 5.3): mean per channel, 1x1 to `squeeze`, ReLU, 1x1 back, hard sigmoid, scale."""

    def __init__(self, squeeze: Layer, excite: Layer) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(squeeze.in_channels, squeeze.out_channels, 1)
        self.excite = nn.Conv2d(excite.in_channels, excite.out_channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the same, each channel scaled by a number in [0, 1]."""
        scale = F.relu(self.squeeze(F.adaptive_avg_pool2d(inputs, 1)))
        return inputs * F.hardsigmoid(self.excite(scale))


class ConvRowModule(nn.Module):
    """A `ConvRow`."""

    def __init__(self, row: ConvRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        (layer,) = row.layers(in_channels)
        self.conv = ConvNormAct(layer, row.act, norm=norm, padding=padding)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        outputs: Tensor = self.conv(inputs)
        return outputs


class SeparableRowModule(nn.Module):
    """A `SeparableRow` (V1 section 3.1)."""

    def __init__(self, row: SeparableRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        depthwise, project = row.layers(in_channels)
        self.depthwise = ConvNormAct(depthwise, row.act, norm=norm, padding=padding)
        self.project = ConvNormAct(project, row.act, norm=norm, padding=padding)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        outputs: Tensor = self.project(self.depthwise(inputs))
        return outputs


class BottleneckRowModule(nn.Module):
    """A `BottleneckRow` (V2 section 3.3, V3 section 5)."""

    def __init__(self, row: BottleneckRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        layers = {layer.name: layer for layer in row.layers(in_channels)}
        self.residual = row.residual(in_channels)
        self.expand: nn.Module = (
            ConvNormAct(layers["expand"], row.act, norm=norm, padding=padding) if "expand" in layers else nn.Identity()
        )
        self.depthwise = ConvNormAct(layers["depthwise"], row.act, norm=norm, padding=padding)
        self.excite: nn.Module = (
            SqueezeExcite(layers["squeeze"], layers["excite"]) if "squeeze" in layers else nn.Identity()
        )
        self.project = ConvNormAct(layers["project"], "none", norm=norm, padding=padding)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.with_expansion(inputs)[0]

    def with_expansion(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the expansion (N, expanded, H, W) on the way to it."""
        expansion: Tensor = self.expand(inputs)
        outputs: Tensor = self.project(self.excite(self.depthwise(expansion)))
        return (inputs + outputs if self.residual else outputs), expansion


class FusedRowModule(nn.Module):
    """A `FusedRow` (V4 section 3)."""

    def __init__(self, row: FusedRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        expand, project = row.layers(in_channels)
        self.residual = row.residual(in_channels)
        self.expand = ConvNormAct(expand, row.act, norm=norm, padding=padding)
        self.project = ConvNormAct(project, "none", norm=norm, padding=padding)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        outputs: Tensor = self.project(self.expand(inputs))
        return inputs + outputs if self.residual else outputs


class UniversalRowModule(nn.Module):
    """A `UniversalRow` (V4 section 3)."""

    def __init__(self, row: UniversalRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        self.residual = row.residual(in_channels)
        for layer in row.layers(in_channels):
            act = row.act if layer.name in ("expand", "middle") else "none"
            self.add_module(layer.name, ConvNormAct(layer, act, norm=norm, padding=padding))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.with_expansion(inputs)[0]

    def with_expansion(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the expansion (N, expanded, H', W') on the way to it; H' = H without a strided start."""
        outputs = expansion = inputs
        for name, layer in self.named_children():
            outputs = layer(outputs)
            if name == "expand":
                expansion = outputs
        return (inputs + outputs if self.residual else outputs), expansion


BUILDERS: Mapping[type[Any], Callable[..., nn.Module]] = MappingProxyType(
    {
        ConvRow: ConvRowModule,
        SeparableRow: SeparableRowModule,
        BottleneckRow: BottleneckRowModule,
        FusedRow: FusedRowModule,
        UniversalRow: UniversalRowModule,
    }
)


def build_row(row: Row, in_channels: int, *, norm: Norm, padding: Padding) -> nn.Module:
    """The module of one row, untrained.

    Raises:
        SpecError: no builder for that type of row.
    """
    if type(row) not in BUILDERS:
        raise SpecError(
            f"a row of type {type(row).__name__}",
            wanted="one of " + ", ".join(kind.__name__ for kind in BUILDERS),
            do="add a builder to BUILDERS",
        )
    return BUILDERS[type(row)](row, in_channels, norm=norm, padding=padding)
