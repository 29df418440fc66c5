"""Row -> torch module. The second of the five extension tables; nothing outside it knows the row types' modules.

Child names are the names of the row's layers (`arch.rows`), so a state dict reads like the table:
`rows.3.depthwise.conv.weight`, `rows.3.depthwise.norm.running_mean`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from ..arch.rows import (
    AttentionRow,
    BottleneckRow,
    ConvRow,
    FusedRow,
    Row,
    SeparableRow,
    UniversalRow,
)
from ..arch.spec import Norm, Padding
from ..errors import SpecError
from .parts import ConvNormAct, LayerScale, MultiQueryAttention, SqueezeExcite

__all__ = ["BUILDERS", "AttentionRowModule", "BottleneckRowModule", "UniversalRowModule", "build_row"]


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
        return self.with_taps(inputs)[0]

    def with_taps(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and on the way to it the "expansion" and the "depthwise" output, the latter not yet excited."""
        expansion: Tensor = self.expand(inputs)
        depthwise: Tensor = self.depthwise(expansion)
        outputs: Tensor = self.project(self.excite(depthwise))
        return (inputs + outputs if self.residual else outputs), {"expansion": expansion, "depthwise": depthwise}


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
            module = LayerScale(layer) if layer.kind == "scale" else ConvNormAct(layer, act, norm=norm, padding=padding)
            self.add_module(layer.name, module)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.with_taps(inputs)[0]

    def with_taps(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and on the way to it the "expansion" and, where there is a middle, the "depthwise" output."""
        names = {"expand": "expansion", "middle": "depthwise"}
        taps: dict[str, Tensor] = {}
        outputs = inputs
        for name, layer in self.named_children():
            outputs = layer(outputs)
            if name in names:
                taps[names[name]] = outputs
        return (inputs + outputs if self.residual else outputs), taps


class AttentionRowModule(nn.Module):
    """An `AttentionRow` (V4 section 3.2)."""

    def __init__(self, row: AttentionRow, in_channels: int, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        layers = {layer.name: layer for layer in row.layers(in_channels)}
        self.residual = row.residual(in_channels)
        self.norm = nn.BatchNorm2d(in_channels, eps=norm.eps, momentum=norm.momentum)

        def part(name: str) -> nn.Module:
            return ConvNormAct(layers[name], "none", norm=norm, padding=padding) if name in layers else nn.Identity()

        # In the order of the table's layers, so that a state dict reads like it.
        self.query = part("query")
        self.key_down = part("key_down")
        self.key = part("key")
        self.value_down = part("value_down")
        self.value = part("value")
        self.attend = MultiQueryAttention(layers["attend"])
        self.project = part("project")
        self.layer_scale: nn.Module = LayerScale(layers["layer_scale"]) if row.layer_scale else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H, W)."""
        normed = self.norm(inputs)
        key, value = self.key(self.key_down(normed)), self.value(self.value_down(normed))
        outputs: Tensor = self.layer_scale(self.project(self.attend(self.query(normed), key, value)))
        return inputs + outputs if self.residual else outputs


BUILDERS: Mapping[type[Any], Callable[..., nn.Module]] = MappingProxyType(
    {
        ConvRow: ConvRowModule,
        SeparableRow: SeparableRowModule,
        BottleneckRow: BottleneckRowModule,
        FusedRow: FusedRowModule,
        UniversalRow: UniversalRowModule,
        AttentionRow: AttentionRowModule,
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
