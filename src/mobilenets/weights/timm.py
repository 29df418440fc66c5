"""timm's MobileNets, V1 to V4: names of tensors, and a state dict as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from numpy.typing import NDArray

from ..arch import (
    CATALOG,
    ArchSpec,
    AttentionRow,
    BottleneckRow,
    ConvRow,
    FusedRow,
    PlacedRow,
    SeparableRow,
    UniversalRow,
)
from ..arch.rows import Layer
from ..errors import SpecError
from .places import Candidate, Place, head_place, row_place, with_shapes
from .timm_models import restaged, stages_of, timm_model

__all__ = ["named_candidate", "places", "shaped_candidates"]

# Our layer -> their convolution and norm, inside a block.
CONV = {"conv": ("conv", "bn1")}
SEPARABLE = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
EXCITE = {"squeeze": ("se.conv_reduce", None), "excite": ("se.conv_expand", None)}
BOTTLENECK = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3"), **EXCITE}
FUSED = {"expand": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")}
UNIVERSAL = {
    "start": ("dw_start.conv", "dw_start.bn"),
    "expand": ("pw_exp.conv", "pw_exp.bn"),
    "middle": ("dw_mid.conv", "dw_mid.bn"),
    "project": ("pw_proj.conv", "pw_proj.bn"),
    "layer_scale": ("layer_scale", None),
}
ATTENTION = {
    "norm": ("norm", None),
    "query": ("attn.query.proj", None),
    "key_down": ("attn.key.down_conv", "attn.key.norm"),
    "key": ("attn.key.proj", None),
    "value_down": ("attn.value.down_conv", "attn.value.norm"),
    "value": ("attn.value.proj", None),
    "project": ("attn.output.proj", None),
    "layer_scale": ("layer_scale", None),
}
BLOCKS: Mapping[type[Any], Mapping[str, tuple[str, str | None]]] = MappingProxyType(
    {
        ConvRow: CONV,
        SeparableRow: SEPARABLE,
        BottleneckRow: BOTTLENECK,
        FusedRow: FUSED,
        UniversalRow: UNIVERSAL,
        AttentionRow: ATTENTION,
    }
)


def places(spec: ArchSpec, stages: Sequence[int]) -> list[Place]:
    """Where the table's tensors lie in timm's model, whose stages have so many blocks each.

    Raises:
        SpecError: a row of a type that timm has not.
    """
    placed = list(spec.placed())
    found = list(_row(placed[0], "", {"conv": ("conv_stem", "bn1")}))
    blocks = [f"blocks.{stage}.{block}." for stage, size in enumerate(stages) for block in range(size)]
    for row, at in zip(placed[1:], blocks, strict=False):
        found += _row(row, at, _names(row))
    for row in placed[1 + len(blocks) :]:
        found += _row(row, "", {"conv": ("conv_head", "bn2")})
    for layer in spec.head.layers(spec.out_channels):
        if layer.name == "hidden":
            found.append(head_place(layer, "conv_head", kind="conv", their_norm="norm_head"))
        else:
            found.append(head_place(layer, "classifier", kind="linear"))
    return found


def shaped_candidates(tensors: Mapping[str, NDArray[Any]]) -> Iterator[Candidate]:
    """Each family that has as many stages as the state dict, with its depths and widths."""
    blocks: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(r"blocks\.(\d{1,3})\.(\d{1,3})\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    stages = [len(blocks[stage]) for stage in sorted(blocks)]
    for family, make in CATALOG.items():
        spec = make()
        own = stages_of(spec)
        if len(own) != len(stages):
            yield Candidate(family=family, spec=spec, places=places(spec, own))
            continue
        spec = restaged(spec, stages)
        if spec.head.hidden is None and isinstance(spec.rows[-1], SeparableRow) and "conv_head.weight" in tensors:
            spec = msgspec.structs.replace(spec, rows=(*spec.rows, ConvRow(out=spec.out_channels, kernel=1)))
        spec = with_shapes(spec, places(spec, stages), tensors)
        yield Candidate(family=family, spec=spec, places=places(spec, stages))


def named_candidate(name: str, tensors: Mapping[str, NDArray[Any]]) -> Candidate:
    """The model of that name with the file's classes and channels."""
    model = timm_model(name)
    read = with_shapes(model.spec, places(model.spec, model.stages), tensors)
    head = msgspec.structs.replace(model.spec.head, classes=read.head.classes)
    spec = msgspec.structs.replace(model.spec, head=head, channels=read.channels)
    return Candidate(family=model.family, spec=spec, places=places(spec, model.stages))


def _names(placed: PlacedRow) -> Mapping[str, tuple[str, str | None]]:
    row = placed.row
    if type(row) not in BLOCKS:
        raise SpecError(
            f"a row of type {type(row).__name__}",
            wanted="one of " + ", ".join(kind.__name__ for kind in BLOCKS),
            do="add its names to BLOCKS",
        )
    if isinstance(row, BottleneckRow) and row.expanded is None:  # timm builds another block then
        return {**SEPARABLE, **EXCITE}
    return BLOCKS[type(row)]


def _row(placed: PlacedRow, at: str, names: Mapping[str, tuple[str, str | None]]) -> Iterator[Place]:
    layers: tuple[Layer, ...] = placed.row.layers(placed.in_channels)
    for layer in layers:
        if layer.kind == "attention":  # two products of activations, no tensors
            continue
        conv, norm = names[layer.name]
        yield row_place(placed, layer, f"{at}{conv}", None if norm is None else f"{at}{norm}")
