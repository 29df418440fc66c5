"""The table behind an artifact, and what each of its rows needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

import msgspec

from ..arch import ArchSpec, cost, find, with_channels, with_classes
from ..arch.rows import LayerKind
from ..arch.spec import Padding
from ..errors import MobileNetsError
from ..records import Artifact, Precision
from .records import Peaks

__all__ = ["LayerNeeds", "layer_needs", "part_names", "roofline_ms", "table_of"]

# Bytes of a weight and of an activation. Files of fp16 and of int8 weights are computed with as float32.
BYTES: Final[Mapping[Precision, tuple[int, int]]] = MappingProxyType(
    {"fp32": (4, 4), "fp16": (2, 4), "bf16": (2, 2), "int8": (1, 1), "int8-weights": (1, 4), "int8-dynamic": (1, 4)}
)


class LayerNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer has to do for a batch, whoever does it."""

    part: str  # "rows.3" or "head"
    kind: LayerKind
    mult_adds: int
    weight_bytes: int
    activation_bytes: int  # read and written


def table_of(artifact: Artifact) -> ArchSpec | None:
    """The table of an artifact; None where the artifact does not hold it and its name is not one of the catalogue's.

    Raises:
        SpecError: what it holds is no table.
    """
    if artifact.table:
        return ArchSpec.from_json(artifact.table)
    with contextlib.suppress(MobileNetsError):  # a name of somebody's own
        named = with_classes(find(artifact.spec_name), len(artifact.labels))
        spec = with_channels(named, artifact.preprocess.channels)
        for padding in get_args(Padding):  # imported weights may pad otherwise than their name's table
            padded = msgspec.structs.replace(spec, padding=padding)
            if padded.digest == artifact.spec_digest:
                return padded
    return None


def layer_needs(spec: ArchSpec, *, precision: Precision, batch_size: int) -> tuple[LayerNeeds, ...]:
    """What every layer of a table needs, in their order. Weights are read once a batch."""
    weight, activation = BYTES[precision]
    return tuple(
        LayerNeeds(
            part=f"rows.{entry.row}" if entry.row < len(spec.rows) else "head",
            kind=entry.layer.kind,
            mult_adds=batch_size * entry.mult_adds,
            weight_bytes=weight * entry.parameters,
            activation_bytes=batch_size * activation * entry.activations,
        )
        for entry in cost(spec).layers
    )


def part_names(spec: ArchSpec) -> dict[str, str]:
    """What each part is, in words: "rows.3" -> "bottleneck 72 -> 24, 28x28"."""
    names = {"input": f"pixels to numbers, {spec.channels}x{spec.resolution}x{spec.resolution}"}
    for placed in spec.placed():
        kind = placed.row.__struct_config__.tag
        stride = f" stride {placed.row.stride}," if placed.row.stride > 1 else ""
        size = f"{placed.in_size}x{placed.in_size}"
        names[f"rows.{placed.index}"] = f"{kind} {placed.in_channels} -> {placed.row.out},{stride} {size}"
    names["head"] = f"head {spec.out_channels} -> {spec.head.classes}"
    return names


def roofline_ms(layers: tuple[LayerNeeds, ...], peaks: Peaks, precision: Precision) -> dict[str, float]:
    """The least time of each part: of every layer, products at the peak or bytes at the memory's speed, whichever is
    more (Williams et al. 2009, "Roofline"); layers run one after another.

    A layer's activations were just written, so they lie in a cache that holds them; weights have to stay somewhere from
    one answer to the next, so they lie in what holds all weights.
    """
    all_weights = sum(layer.weight_bytes for layer in layers)
    parts: dict[str, float] = {}
    for layer in layers:
        memory = peaks.memory_ms(layer.activation_bytes, within=layer.activation_bytes)
        memory += peaks.memory_ms(layer.weight_bytes, within=all_weights)
        least = max(memory, peaks.gemm_ms(layer.mult_adds, precision))
        parts[layer.part] = parts.get(layer.part, 0.0) + least
    return parts
