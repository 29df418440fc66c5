"""Knobs that make another network of a paper's: fuller, shallower, deeper, or narrower at its end."""

from __future__ import annotations

import itertools
import math

import msgspec

from ..errors import SpecError
from .knobs import make_divisible, squeezed_width
from .rows import BottleneckRow, ConvRow, Row, SeparableRow
from .spec import ArchSpec

__all__ = ["deeper", "full_convolutions", "reduced_tail", "shallow"]


def full_convolutions(spec: ArchSpec) -> ArchSpec:
    """V1 Table 4, "Conv MobileNet": each depthwise separable pair becomes one full convolution.

    Raises:
        SpecError: the table has no separable row.
    """
    _wants_separable(spec, "full convolutions")
    rows = tuple(
        ConvRow(
            out=row.out,
            kernel=row.kernel,
            stride=row.stride,
            dilation=row.dilation,
            act=row.act,
            scaling=row.scaling,
        )
        if isinstance(row, SeparableRow)
        else row
        for row in spec.rows
    )
    return msgspec.structs.replace(spec, rows=rows, name=f"{spec.name}_full_convolutions")


def shallow(spec: ArchSpec) -> ArchSpec:
    """V1 Table 5, "Shallow MobileNet": without the repeated separable rows (the five of 14x14x512).

    A row goes when it is one of at least three equal rows in succession.

    Raises:
        SpecError: the table has no separable row.
    """
    _wants_separable(spec, "shallow")
    rows: list[Row] = []
    index = 0
    while index < len(spec.rows):
        end = index
        while end < len(spec.rows) and spec.rows[end] == spec.rows[index]:
            end += 1
        if end - index < 3:
            rows.extend(spec.rows[index:end])
        index = end
    return msgspec.structs.replace(spec, rows=tuple(rows), name=f"{spec.name}_shallow")


def reduced_tail(spec: ArchSpec) -> ArchSpec:
    """V3's end for detection and segmentation: half the channels from the last stride on (section 6.3).

    Every output from the row with the last stride on is halved, and the head's hidden layer with them; expansions keep
    their ratio to the input of their row, so the expansion of the strided row, which SSDLite reads, stays. As TF-slim's
    `V3_LARGE_DETECTION` and `V3_SMALL_DETECTION`, and torchvision's `reduced_tail=True`.

    Raises:
        SpecError: the last stride is not in a bottleneck.
    """
    strided = [index for index, row in enumerate(spec.rows) if row.stride > 1]
    first = strided[-1] if strided else 0
    if not isinstance(spec.rows[first], BottleneckRow):
        raise SpecError(
            f"{spec.name} has no bottleneck with the last stride",
            wanted="a MobileNetV3 for the knob 'reduced_tail'",
            do="start from mobilenet_v3_large or mobilenet_v3_small",
        )
    rows = list(spec.rows[:first])
    for placed in list(spec.placed())[first:]:
        row = placed.row
        inputs = rows[-1].out if rows else placed.in_channels
        out = make_divisible(row.out / 2)
        if isinstance(row, BottleneckRow) and row.expanded is not None:
            expanded = make_divisible(inputs * row.expanded / placed.in_channels)
            squeezed = row.squeezed and squeezed_width(expanded)
            rows.append(msgspec.structs.replace(row, out=out, expanded=expanded, squeezed=squeezed))
        else:
            rows.append(msgspec.structs.replace(row, out=out))
    head = spec.head
    if head.hidden is not None:
        head = msgspec.structs.replace(head, hidden=make_divisible(head.hidden / 2))
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head, name=f"{spec.name}_reduced_tail")


def deeper(spec: ArchSpec, depth: float) -> ArchSpec:
    """More rows of each kind, as in timm's `mobilenetv2_110d` (depth multiplier: Tan and Le 2019, section 3.2).

    Bottlenecks of one output width in succession are a stage, as in V2's Table 2; n of them become n times `depth`,
    rounded up, by repeating the last. The first and the last stage stay, and those of one row.

    Raises:
        SpecError: depth is below 1, or there are not three stages of bottlenecks.
    """
    if not depth >= 1:
        raise SpecError(f"the depth multiplier is {depth}", wanted="at least 1", do="use `shallow` for fewer rows")
    runs = [tuple(run) for _, run in itertools.groupby(spec.rows, key=lambda row: (type(row), row.out))]
    stages = [index for index, run in enumerate(runs) if isinstance(run[0], BottleneckRow)]
    if len(stages) < 3:
        raise SpecError(
            f"{spec.name} has {len(stages)} stages of bottlenecks", wanted="at least 3", do="start from mobilenet_v2"
        )
    rows: list[Row] = []
    for index, run in enumerate(runs):
        rows.extend(run)
        if index in stages[1:-1] and len(run) > 1:  # the only row of a stage may stride, so it is no row to repeat
            more = math.ceil(len(run) * depth - 1e-9) - len(run)  # 5 * 1.2 is 6.000... or a little more in binary
            rows.extend([run[-1]] * more)
    return msgspec.structs.replace(spec, rows=tuple(rows), name=f"{spec.name}_deeper_{depth:g}")


def _wants_separable(spec: ArchSpec, knob: str) -> None:
    if not any(isinstance(row, SeparableRow) for row in spec.rows):
        raise SpecError(
            f"{spec.name} has no separable row",
            wanted=f"a MobileNetV1 for the knob {knob!r}",
            do="start from mobilenet_v1",
        )
