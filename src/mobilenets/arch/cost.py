"""What a table costs, counted from its rows: parameters, mult-adds, activation memory. Nothing is built or run."""

from __future__ import annotations

import msgspec

from .rows import Layer, LayerKind
from .spec import ArchSpec

__all__ = ["Cost", "LayerCost", "TypeCost", "cost"]


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """One layer where it stands."""

    row: int  # index in the table; len(rows) is the head
    layer: Layer
    in_size: int  # height = width, pixels
    out_size: int
    parameters: int
    mult_adds: int
    activations: int  # elements read and written


class TypeCost(msgspec.Struct, frozen=True, kw_only=True):
    """All layers of one kind together (V1 Table 2)."""

    mult_adds: int
    parameters: int  # weights and biases and the norm behind them


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a network costs for one image."""

    parameters: int  # trainable; running statistics of the norms do not count
    norm_statistics: int  # running means and variances
    mult_adds: int  # products of convolutions, linear layers and attentions; FLOPs = 2x
    peak_activations: int  # elements of the largest layer's input and output together, kept residual included
    layers: tuple[LayerCost, ...]

    @property
    def attention_mult_adds(self) -> int:
        """The part of `mult_adds` that is queries times keys and weights times values; 0 but in V4's hybrids."""
        return sum(entry.mult_adds for entry in self.layers if entry.layer.kind == "attention")

    @property
    def activations(self) -> int:
        """Elements that all layers read and write for one image: what a memory-bound machine takes its time for."""
        return sum(entry.activations for entry in self.layers)

    @property
    def size_mb(self) -> float:
        """Float32 weights and statistics, 10^6 bytes."""
        return 4 * (self.parameters + self.norm_statistics) / 1e6

    @property
    def peak_activation_mb(self) -> float:
        """Float32 activations that must be in memory at the worst moment, 10^6 bytes, for one image."""
        return 4 * self.peak_activations / 1e6

    def by_type(self) -> dict[LayerKind, TypeCost]:
        """Sums per kind of layer, every kind that occurs."""
        kinds: dict[LayerKind, list[LayerCost]] = {}
        for entry in self.layers:
            kinds.setdefault(entry.layer.kind, []).append(entry)
        return {
            kind: TypeCost(mult_adds=sum(e.mult_adds for e in entries), parameters=sum(e.parameters for e in entries))
            for kind, entries in kinds.items()
        }


def cost(spec: ArchSpec) -> Cost:
    """Count a table. Exact: equal to the built network's parameters and to the products its layers make.

    Squeeze-and-excite and the head run once per image; residual additions, norms, layer scales, activations, softmax
    and pooling are not mult-adds, as in the papers. The two matrix products of an attention are: only with them do V4's
    hybrids have the 1.2 G and 7.2 G of its Table 6. `attention_mult_adds` tells them apart, for tools that count
    convolutions and linear layers only. The peak holds all that an attention's products read and write, but not what
    else of its row is still needed meanwhile.
    """
    entries: list[LayerCost] = []
    peak = 0
    for placed in spec.placed():
        size = placed.in_size
        kept = 0  # the input that waits for the residual addition, from the second layer on
        for layer in placed.row.layers(placed.in_channels):
            if layer.shrunk is not None:
                size = -(-placed.in_size // layer.shrunk)
            entry = _count(placed.index, layer, size)
            entries.append(entry)
            peak = max(peak, entry.activations + kept)
            if placed.row.residual(placed.in_channels):
                kept = placed.in_channels * placed.in_size**2
            if layer.on == "map":
                size = entry.out_size
    for layer in spec.head.layers(spec.out_channels):
        entry = _count(len(spec.rows), layer, 1)
        entries.append(entry)
        peak = max(peak, entry.activations)
    return Cost(
        parameters=sum(e.parameters for e in entries),
        norm_statistics=sum(2 * e.layer.out_channels for e in entries if e.layer.norm),
        mult_adds=sum(e.mult_adds for e in entries),
        peak_activations=peak,
        layers=tuple(entries),
    )


def _count(row: int, layer: Layer, size: int) -> LayerCost:
    in_size = size if layer.on == "map" else 1
    out_size = -(-in_size // layer.stride)
    return LayerCost(
        row=row,
        layer=layer,
        in_size=in_size,
        out_size=out_size,
        parameters=layer.parameters,
        mult_adds=layer.mult_adds(out_size),
        activations=layer.activations(in_size, out_size),
    )
