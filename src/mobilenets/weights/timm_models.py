"""timm's MobileNets as tables: the same rows as in the papers, in timm's stages and with timm's own conventions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from ..arch import CATALOG, ArchSpec, BottleneckRow, ConvRow, with_width
from ..arch.rows import Row
from ..arch.spec import Norm

__all__ = ["MODELS", "REFUSED", "TimmModel", "restaged", "stages_of", "timm_model"]

NORM = Norm(eps=1e-5, momentum=0.1)  # torch's own, which timm leaves alone
TF_NORM = Norm(eps=1e-3, momentum=0.1)  # of weights that were trained with TensorFlow


@dataclass(frozen=True)
class _Knobs:
    """How timm makes a model of a family."""

    family: str
    alpha: float = 1.0
    depth: float = 1.0
    fixed_ends: bool = False  # neither depth nor width changes stem, first and last stage, and head
    head_conv: bool = False  # a 1x1 convolution behind V1's rows
    tensorflow: bool = False  # SAME padding and TensorFlow's epsilon


def _families() -> dict[str, _Knobs]:
    v3, v4 = "mobilenet_v3", "mobilenet_v4"
    models = {
        "mobilenetv1_100": _Knobs("mobilenet_v1"),
        "mobilenetv1_125": _Knobs("mobilenet_v1", alpha=1.25),
        "mobilenetv1_100h": _Knobs("mobilenet_v1", head_conv=True),
        "mobilenetv2_110d": _Knobs("mobilenet_v2", alpha=1.1, depth=1.2, fixed_ends=True),
        "mobilenetv2_120d": _Knobs("mobilenet_v2", alpha=1.2, depth=1.4, fixed_ends=True),
        "mobilenetv3_large_150d": _Knobs(f"{v3}_large", alpha=1.5, depth=1.2),
    }
    for percent in (35, 50, 75, 100, 140):
        models[f"mobilenetv2_{percent:03}"] = _Knobs("mobilenet_v2", alpha=percent / 100)
    for size, percents in (("large", (75, 100)), ("small", (50, 75, 100))):
        for percent in percents:
            models[f"mobilenetv3_{size}_{percent:03}"] = _Knobs(f"{v3}_{size}", alpha=percent / 100)
    for size in ("large", "small"):
        for percent in (75, 100):
            models[f"tf_mobilenetv3_{size}_{percent:03}"] = _Knobs(f"{v3}_{size}", alpha=percent / 100, tensorflow=True)
        models[f"tf_mobilenetv3_{size}_minimal_100"] = _Knobs(f"{v3}_{size}_minimalistic", tensorflow=True)
    for size in ("conv_small", "conv_medium", "conv_large", "hybrid_medium", "hybrid_large"):
        models[f"mobilenetv4_{size}"] = _Knobs(f"{v4}_{size}")
    for size, percent in (("conv_small", 35), ("conv_small", 50), ("hybrid_medium", 75), ("hybrid_large", 75)):
        models[f"mobilenetv4_{size}_{percent:03}"] = _Knobs(f"{v4}_{size}", alpha=percent / 100)
    return {name: knobs for name, knobs in models.items() if knobs.family in CATALOG}


MODELS: Mapping[str, _Knobs] = MappingProxyType(_families())
# What is in none of the papers, and does not show in the tensors.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "mobilenetv3_rw": "its squeeze-and-excite activates with hard swish, and its first block adds no input",
        "mobilenetv4_conv_aa_medium": "it averages before its strides",
        "mobilenetv4_conv_aa_large": "it averages before its strides",
        "mobilenetv4_conv_blur_medium": "it blurs before its strides",
    }
)


@dataclass(frozen=True)
class TimmModel:
    """A model of timm's: the table, and how many of its rows stand in each stage."""

    name: str
    family: str
    spec: ArchSpec
    stages: tuple[int, ...]


@functools.cache
def timm_model(name: str) -> TimmModel:
    """One of `MODELS`, with 1000 classes at the resolution of the paper."""
    knobs = MODELS[name]
    spec = CATALOG[knobs.family]()
    if knobs.depth != 1.0:
        spec = _deeper(spec, knobs)
    stages = stages_of(spec)
    if knobs.alpha != 1.0:
        spec = _widened(spec, knobs)
    rows = spec.rows
    if knobs.head_conv:
        rows = (*rows, ConvRow(out=rows[-1].out, kernel=1))
    spec = msgspec.structs.replace(
        spec,
        name=name,
        rows=rows,
        head=CATALOG[knobs.family]().head,  # timm's hidden layer never grows
        norm=TF_NORM if knobs.tensorflow else NORM,
        padding="same" if knobs.tensorflow else "symmetric",
    )
    return TimmModel(name=name, family=knobs.family, spec=spec, stages=stages)


def _deeper(spec: ArchSpec, knobs: _Knobs) -> ArchSpec:
    """Each stage's depth times the multiplier, rounded up, and shared out as timm does (`_scale_stage_depth`).

    timm shares among its own lines, which are our rows of one expansion ratio; from the last to the first, so that the
    first, which mostly has the stride, is repeated last of all.
    """
    sizes, placed = stages_of(spec), list(spec.placed())
    rows: list[Row] = [spec.rows[0]]
    begin = 1
    for stage, size in enumerate(sizes):
        members = placed[begin : begin + size]
        begin += size
        if knobs.fixed_ends and stage in (0, len(sizes) - 1):
            rows += [member.row for member in members]
            continue
        lines = [
            [member.row for member in line]
            for _, line in itertools.groupby(members, key=lambda member: _ratio(member.row, member.in_channels))
        ]
        left, wanted = size, math.ceil(size * knobs.depth - 1e-9)
        deeper: list[Row] = []
        for line in reversed(lines):
            share = max(1, round(len(line) / left * wanted))
            deeper = [*line[:share], *(line[-1] for _ in range(share - len(line))), *deeper]
            left, wanted = left - len(line), wanted - share
        rows += deeper
    return msgspec.structs.replace(spec, rows=(*rows, *spec.rows[begin:]))


def _ratio(row: Row, in_channels: int) -> float:
    if not isinstance(row, BottleneckRow) or row.expanded is None:
        return 1.0
    return round(row.expanded / in_channels, 2)


def _widened(spec: ArchSpec, knobs: _Knobs) -> ArchSpec:
    """timm keeps the stem of V3 below 0.75, that of V4 below 1, and the stem and head of the deep V2."""
    rounded = msgspec.structs.replace(spec, rounding="multiple_of_8")  # V1's widths too, unlike TF-slim's
    limit = {"mobilenet_v3": 0.75, "mobilenet_v4": 1.0}.get(knobs.family[: len("mobilenet_v3")], 0.0)
    if knobs.alpha < limit:
        stem = msgspec.structs.replace(spec.rows[0], scaling="widen")
        return with_width(msgspec.structs.replace(rounded, rows=(stem, *spec.rows[1:])), knobs.alpha)
    scaled = with_width(rounded, knobs.alpha)
    if not knobs.fixed_ends:
        return scaled
    return msgspec.structs.replace(scaled, rows=(spec.rows[0], *scaled.rows[1:-1], spec.rows[-1]))


def stages_of(spec: ArchSpec) -> tuple[int, ...]:
    """How many rows each of timm's stages has: a stage begins where the stride or the width changes.

    The stem and, without a hidden layer in the head, the last convolution stand outside. V4-Conv-S has its fused
    blocks as two convolutions each, which belong together whatever their widths.
    """
    rows = blocks_of(spec)
    sizes: list[int] = []
    for index, row in enumerate(rows):
        before = rows[index - 1] if index else None
        pair = isinstance(row, ConvRow) and isinstance(before, ConvRow) and row.stride == 1
        begins = before is None or row.stride > 1 or (row.out != before.out and not pair)
        if begins:
            sizes.append(1)
        else:
            sizes[-1] += 1
    return tuple(sizes)


def blocks_of(spec: ArchSpec) -> tuple[Row, ...]:
    """The rows inside timm's stages."""
    rows = spec.rows[1:]
    outside = spec.head.hidden is None and isinstance(rows[-1], ConvRow)
    return rows[:-1] if outside else rows


def restaged(spec: ArchSpec, stages: Sequence[int]) -> ArchSpec:
    """The table with other depths: a stage that grows repeats its last row, one that shrinks loses its last rows."""
    blocks, begin = blocks_of(spec), 0
    rows: list[Row] = [spec.rows[0]]
    for old, new in zip(stages_of(spec), stages, strict=True):
        stage = blocks[begin : begin + old]
        last = msgspec.structs.replace(stage[-1], stride=1) if new > old and stage[-1].stride > 1 else stage[-1]
        rows += [*stage[:new], *(last for _ in range(new - old))]
        begin += old
    return msgspec.structs.replace(spec, rows=(*rows, *spec.rows[1 + len(blocks) :]))
