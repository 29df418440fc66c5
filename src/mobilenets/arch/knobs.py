"""The knobs: functions from a table to a table."""

from __future__ import annotations

import math
import typing
from typing import Literal

import msgspec

from ..errors import SpecError
from .rows import AttentionRow, BottleneckRow, ConvRow, FusedRow, Row, Scaling, SeparableRow, UniversalRow
from .spec import ArchSpec, Rounding

__all__ = [
    "OutputStride",
    "WidthRule",
    "for_small_images",
    "make_divisible",
    "round_width",
    "squeezed_width",
    "with_channels",
    "with_classes",
    "with_output_stride",
    "with_resolution",
    "with_width",
]

OutputStride = Literal[8, 16, 32]
WidthRule = Literal["paper", "torchvision"]
ALPHA_RANGE = (0.1, 2.0)
FLOOR_MINIMUM = 8  # TF-slim's min_depth for V1
SQUEEZE_RATIO = 4  # V3 section 5.3: squeeze-and-excite shrinks to a quarter of the expansion


def make_divisible(value: float, *, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, at least one, and never below 90 % of `value`.

    The rule of TF-slim, torchvision, Keras and timm alike (TF-slim `mobilenet.py`).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def round_width(value: float, rounding: Rounding) -> int:
    """A width after scaling: V1 floors (TF-slim: at least 8), V2 and V3 go to a multiple of 8."""
    if rounding == "floor":
        return max(FLOOR_MINIMUM, math.floor(value + 1e-9))  # 0.7 * 10 is 6.999... in binary
    if rounding == "multiple_of_8":
        return make_divisible(value)
    raise SpecError(f"rounding is {rounding!r}", wanted="'floor' or 'multiple_of_8'", do="correct rounding")


def squeezed_width(expanded: int) -> int:
    """Channels between squeeze and excite (V3 section 5.3, rounded as TF-slim does)."""
    return make_divisible(expanded / SQUEEZE_RATIO)


def with_width(spec: ArchSpec, alpha: float, *, rule: WidthRule = "paper") -> ArchSpec:
    """The width multiplier (V1 section 3.3): every layer's channels times `alpha`.

    Expanded widths keep their ratio to the input of their row and squeezed widths their quarter, as TF-slim's V2 and
    V3 do; rows marked "widen", and a head's hidden layer, grow for alpha > 1 and never shrink. An attention keeps its
    heads and the widths of its keys and values (as in timm's `mobilenetv4_hybrid_large_075`).

    Args:
        spec: the table at width 1.
        alpha: the multiplier.
        rule: "torchvision" is that library's own rule for V3: expanded widths by themselves, the last convolution at
            its ratio to its input, and the hidden layer of the head scaled like everything else.

    Raises:
        SpecError: alpha is outside 0.1 to 2, or torchvision has no rule of its own for such a table.
    """
    if not ALPHA_RANGE[0] <= alpha <= ALPHA_RANGE[1]:
        raise SpecError(
            f"the width multiplier is {alpha}",
            wanted=f"a number from {ALPHA_RANGE[0]} to {ALPHA_RANGE[1]}",
            do="choose alpha in that range",
        )

    if rule == "torchvision":
        return _with_torchvision_width(spec, alpha)
    if rule != "paper":
        raise SpecError(f"rule is {rule!r}", wanted="'paper' or 'torchvision'", do="choose one of these")

    def scale(width: int, scaling: Scaling) -> int:
        if scaling == "width":
            return round_width(width * alpha, spec.rounding)
        if scaling == "widen":
            return round_width(width * max(alpha, 1.0), spec.rounding)
        raise SpecError(f"scaling is {scaling!r}", wanted="'width' or 'widen'", do="correct scaling in that row")

    rows: list[Row] = []
    inputs = spec.channels  # of the row, after scaling
    for placed in spec.placed():
        row = placed.row
        out = scale(row.out, row.scaling)
        if isinstance(row, BottleneckRow):
            expanded = row.expanded
            if expanded is not None:
                expanded = round_width(inputs * expanded / placed.in_channels, spec.rounding)
            width = inputs if expanded is None else expanded
            squeezed = row.squeezed
            if squeezed is not None:
                before = row.width(placed.in_channels)
                as_in_paper = squeezed == squeezed_width(before)
                squeezed = squeezed_width(width) if as_in_paper else make_divisible(squeezed * width / before)
            rows.append(msgspec.structs.replace(row, out=out, expanded=expanded, squeezed=squeezed))
        elif isinstance(row, FusedRow | UniversalRow):
            expanded = round_width(inputs * row.expanded / placed.in_channels, spec.rounding)
            rows.append(msgspec.structs.replace(row, out=out, expanded=expanded))
        else:
            rows.append(msgspec.structs.replace(row, out=out))
        inputs = out
    head = spec.head
    if head.hidden is not None:
        head = msgspec.structs.replace(head, hidden=scale(head.hidden, "widen"))
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head)


def _with_torchvision_width(spec: ArchSpec, alpha: float) -> ArchSpec:
    rows: list[Row] = []
    inputs = spec.channels  # of the row, after scaling
    for placed in spec.placed():
        row = placed.row
        out = make_divisible(row.out * alpha)
        if isinstance(row, BottleneckRow):
            expanded = None if row.expanded is None else make_divisible(row.expanded * alpha)
            squeezed = row.squeezed and squeezed_width(inputs if expanded is None else expanded)
            rows.append(msgspec.structs.replace(row, out=out, expanded=expanded, squeezed=squeezed))
        elif isinstance(row, ConvRow):
            if row.kernel == 1:
                out = round(inputs * row.out / placed.in_channels)
            rows.append(msgspec.structs.replace(row, out=out))
        else:
            raise SpecError(
                f"row {placed.index} of {spec.name} is a {type(row).__name__}",
                wanted="rows of MobileNetV3 for torchvision's width rule",
                do="use the rule 'paper'",
            )
        inputs = rows[-1].out
    head = spec.head
    if head.hidden is not None:
        head = msgspec.structs.replace(head, hidden=make_divisible(head.hidden * alpha))
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head)


def with_resolution(spec: ArchSpec, resolution: int) -> ArchSpec:
    """The resolution multiplier (V1 section 3.4), set as the input's side in pixels: rho = resolution / 224.

    Raises:
        SpecError: resolution is below 1.
    """
    return msgspec.structs.replace(spec, resolution=resolution)


def with_classes(spec: ArchSpec, classes: int) -> ArchSpec:
    """Another number of classes.

    Raises:
        SpecError: classes is below 1.
    """
    return msgspec.structs.replace(spec, head=msgspec.structs.replace(spec.head, classes=classes))


def with_channels(spec: ArchSpec, channels: int) -> ArchSpec:
    """Another number of input channels: 3 for RGB, 1 for grey.

    Raises:
        SpecError: channels is below 1.
    """
    return msgspec.structs.replace(spec, channels=channels)


def for_small_images(spec: ArchSpec, *, smallest_map: int = 4) -> ArchSpec:
    """Turn strides to 1 until the last feature map is at least `smallest_map` pixels a side.

    A table made for 224 pixels leaves 1 pixel of 28. The stem's stride goes first, for its input is where a small
    image holds its detail; then the last ones, which cost least to give up. 32x32 pixels become 16, 8 and 4 where 224
    would become 56, 28 and 14. Giving up the first strides one after the other, as is often done for CIFAR, costs
    2.7 times the mult-adds in V1 (`docs/decisions.md`).

    Raises:
        SpecError: the input itself is smaller than `smallest_map`.
    """
    if spec.resolution < smallest_map:
        raise SpecError(
            f"{spec.name} has resolution {spec.resolution}",
            wanted=f"at least {smallest_map} pixels",
            do="choose a larger resolution",
        )
    strided = [index for index, row in enumerate(spec.rows) if row.stride > 1]
    rows = list(spec.rows)
    for index in strided[:1] + strided[:0:-1]:
        if list(msgspec.structs.replace(spec, rows=tuple(rows)).placed())[-1].out_size >= smallest_map:
            break
        rows[index] = msgspec.structs.replace(rows[index], stride=1)
    return msgspec.structs.replace(spec, rows=tuple(rows))


def with_output_stride(spec: ArchSpec, output_stride: OutputStride) -> ArchSpec:
    """Hold the map at `output_stride` and dilate what follows (atrous convolution; Chen et al. 2017, section 3.1).

    Where a stride of 2 would go beyond it, the stride becomes 1 and the kernels of all later rows take the rate 2 more
    between their taps. The row that gives its stride up keeps the rate before it: its own kernel reads the map on
    which the stride was, as in TF-slim and timm (torchvision dilates that row already, which changes what its weights
    mean). A row whose stride is gone gets no shortcut that it did not have. So, without attention and
    squeeze-and-excite, which look at the whole map, every second pixel of the held map is what the strided network
    gives: pixels 0, 2, 4 ... with symmetric padding, and with SAME padding from 1 on where the strided row's input
    has an even side.

    Raises:
        SpecError: output_stride is not 8, 16 or 32.
    """
    if output_stride not in typing.get_args(OutputStride):
        raise SpecError(
            f"output_stride is {output_stride!r}", wanted="8, 16 or 32", do="choose one of these for the held map"
        )
    rows: list[Row] = []
    reduction = rate = 1
    for row in spec.rows:
        # The strided kernel of a row comes before its stride takes effect, so one rate serves all kernels of a row.
        changes: dict[str, object] = {"dilation": row.dilation * rate} if _widest_kernel(row) > 1 else {}
        if reduction * row.stride > output_stride:
            rate *= row.stride
            changes["stride"] = 1
            if isinstance(row, BottleneckRow | FusedRow | UniversalRow):
                changes["shortcut"] = False
        else:
            reduction *= row.stride
        rows.append(msgspec.structs.replace(row, **changes))
    return msgspec.structs.replace(spec, rows=tuple(rows))


def _widest_kernel(row: Row) -> int:
    if isinstance(row, UniversalRow):
        return max(row.start_kernel or 1, row.middle_kernel or 1)
    if isinstance(row, ConvRow | SeparableRow | BottleneckRow | FusedRow):
        return row.kernel
    if isinstance(row, AttentionRow):
        return row.kernel if row.keys_stride > 1 else 1
    raise SpecError(f"a row of type {type(row).__name__}", wanted="a row of arch.rows", do="add it to this knob")
