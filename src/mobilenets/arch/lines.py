"""A network's table written as its paper prints it: line by line, in the columns of that page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from ..errors import SpecError
from .cost import cost
from .published import Cell
from .rows import Activation, AttentionRow, BottleneckRow, ConvRow, FusedRow, UniversalRow
from .spec import ArchSpec, PlacedRow

__all__ = ["lines"]

Cells = dict[str, Cell]
NONLINEARITY: Mapping[Activation, str] = MappingProxyType({"relu": "RE", "hard_swish": "HS"})  # V3 Table 1
# With a depthwise convolution before the expansion, and with one behind it (V4 Figure 4)
BLOCKS = MappingProxyType(
    {(True, True): "ExtraDW", (False, True): "IB", (True, False): "ConvNext", (False, False): "FFN"}
)


def lines(spec: ArchSpec) -> tuple[Cells, ...]:
    """The lines of a network as V1 Table 1, V2 Table 2, V3 Tables 1 and 2, and V4 Tables 11 to 15 print theirs.

    Raises:
        SpecError: the table is of another paper, or has rows that its paper's tables do not have.
    """
    for paper, make in _PAPERS.items():
        if paper in spec.paper:
            return tuple(make(spec))
    raise SpecError(
        f"{spec.name} is from {spec.paper!r}", wanted=f"one of {', '.join(_PAPERS)}", do="add its way of writing tables"
    )


def _v1(spec: ArchSpec) -> Iterator[Cells]:
    for entry in cost(spec).layers:
        layer = entry.layer
        if layer.on == "vector":
            break
        apart = layer.kind == "depthwise"
        shape = f"{layer.kernel}x{layer.kernel}x{layer.in_channels}"
        yield {
            "type": "Conv dw" if apart else "Conv",
            "stride": layer.stride,
            "filter": f"{shape} dw" if apart else f"{shape}x{layer.out_channels}",
            "input": _map(entry.in_size, layer.in_channels),
        }
    size, width, classes = _last_size(spec), spec.out_channels, spec.head.classes
    yield {"type": "Avg Pool", "stride": 1, "filter": f"Pool {size}x{size}", "input": _map(size, width)}
    yield {"type": "FC", "stride": 1, "filter": f"{width}x{classes}", "input": _map(1, width)}
    yield {"type": "Softmax", "stride": 1, "filter": "Classifier", "input": _map(1, classes)}


def _v2(spec: ArchSpec) -> Iterator[Cells]:
    """A line is a sequence of blocks with equal outputs; only its first has the stride."""
    group: list[PlacedRow] = []
    for placed in spec.placed():
        row = placed.row
        if group and not (isinstance(row, BottleneckRow) and row.out == group[0].row.out and row.stride == 1):
            yield _v2_sequence(group)
            group = []
        if isinstance(row, BottleneckRow):
            group.append(placed)
        elif isinstance(row, ConvRow):
            operator = "conv2d" if row.kernel == 3 else f"conv2d {row.kernel}x{row.kernel}"
            yield _v2_line(placed.in_size, placed.in_channels, operator, c=row.out, n=1, s=row.stride)
        else:
            raise _strange(spec, placed)
    if group:
        yield _v2_sequence(group)
    size, width = _last_size(spec), spec.out_channels
    yield _v2_line(size, width, f"avgpool {size}x{size}", n=1)
    yield _v2_line(1, width, "conv2d 1x1", c="k")


def _v2_sequence(group: list[PlacedRow]) -> Cells:
    ratios = {p.row.width(p.in_channels) / p.in_channels for p in group if isinstance(p.row, BottleneckRow)}
    kernels = {p.row.kernel for p in group if isinstance(p.row, BottleneckRow)}
    t: Cell = int(min(ratios)) if len(ratios) == 1 and min(ratios).is_integer() else str(sorted(ratios))
    first = group[0]
    operator = "bottleneck" if kernels == {3} else f"bottleneck {sorted(kernels)}"
    return _v2_line(first.in_size, first.in_channels, operator, t=t, c=first.row.out, n=len(group), s=first.row.stride)


def _v2_line(
    size: int, channels: int, operator: str, *, t: Cell = None, c: Cell = None, n: Cell = None, s: Cell = None
) -> Cells:
    return {"input": _map(size, channels), "operator": operator, "t": t, "c": c, "n": n, "s": s}


def _v3(spec: ArchSpec) -> Iterator[Cells]:
    for placed in spec.placed():
        row, expanded, squeezes = placed.row, None, False
        if isinstance(row, BottleneckRow):
            operator = f"bneck, {row.kernel}x{row.kernel}"
            expanded, squeezes = row.width(placed.in_channels), row.squeezed is not None
        elif isinstance(row, ConvRow):
            operator = f"conv2d, {row.kernel}x{row.kernel}"
        else:
            raise _strange(spec, placed)
        act = NONLINEARITY.get(row.act, row.act)
        yield _v3_line(
            placed.in_size, placed.in_channels, operator, expanded, row.out, squeezes=squeezes, act=act, s=row.stride
        )
    size, width, head = _last_size(spec), spec.out_channels, spec.head
    yield _v3_line(size, width, f"pool, {size}x{size}", None, None)
    end = "conv2d 1x1, NBN"
    if head.hidden is not None:
        act = NONLINEARITY.get(head.act, head.act)
        yield _v3_line(1, width, "conv2d 1x1" if head.hidden_norm else end, None, head.hidden, act=act)
        width = head.hidden
    yield _v3_line(1, width, end, None, "k")


def _v3_line(
    size: int,
    channels: int,
    operator: str,
    expanded: int | None,
    out: Cell,
    *,
    squeezes: bool = False,
    act: str | None = None,
    s: int = 1,
) -> Cells:
    cells: Cells = {"input": _map(size, channels), "operator": operator, "exp size": expanded, "out": out}
    return cells | {"SE": squeezes, "NL": act, "stride": s}


def _v4(spec: ArchSpec) -> Iterator[Cells]:
    """Conv-S has its fused blocks as two plain convolutions, as released; the page shows one line for the two."""
    placed_rows = list(spec.placed())
    skip = False
    for placed, following in zip(placed_rows, [*placed_rows[1:], None], strict=True):
        if skip:
            skip = False
            continue
        row, size, channels = placed.row, placed.in_size, placed.in_channels
        if isinstance(row, ConvRow):
            after = None if following is None else following.row
            fused = placed.index > 0 and row.kernel > 1 and isinstance(after, ConvRow) and after.kernel == 1
            if fused and isinstance(after, ConvRow):
                skip = True
                yield _v4_line(size, channels, "FusedIB", (None, row.kernel), row.out, after.out, row.stride)
            else:
                yield _v4_line(size, channels, "Conv2D", (None, row.kernel), None, row.out, row.stride)
        elif isinstance(row, FusedRow):
            yield _v4_line(size, channels, "FusedIB", (None, row.kernel), row.expanded, row.out, row.stride)
        elif isinstance(row, UniversalRow):
            kernels = row.start_kernel, row.middle_kernel
            block = BLOCKS[kernels[0] is not None, kernels[1] is not None]
            yield _v4_line(size, channels, block, kernels, row.expanded, row.out, row.stride)
        elif isinstance(row, AttentionRow):
            yield _v4_line(size, channels, "Mobile-MQA", (None, None), None, row.out, 1)
        else:
            raise _strange(spec, placed)
    size, width, head = _last_size(spec), spec.out_channels, spec.head
    yield _v4_line(size, width, "AvgPool", (None, size), None, width, 1)
    for out in (head.hidden, head.classes):
        if out is not None:
            yield _v4_line(1, width, "Conv2D", (None, 1), None, out, 1)
            width = out


def _v4_line(
    size: int,
    channels: int,
    block: str,
    kernels: tuple[int | None, int | None],
    expanded: int | None,
    out: int,
    stride: int,
) -> Cells:
    cells: Cells = {"input": _map(size, channels), "block": block, "dw k1": kernels[0], "dw k2": kernels[1]}
    return cells | {"expanded": expanded, "out": out, "stride": stride}


_PAPERS: Mapping[str, Callable[[ArchSpec], Iterator[Cells]]] = MappingProxyType(
    {"arXiv:1704.04861": _v1, "arXiv:1801.04381": _v2, "arXiv:1905.02244": _v3, "arXiv:2404.10518": _v4}
)


def _map(size: int, channels: int) -> str:
    return f"{size}x{size}x{channels}"


def _last_size(spec: ArchSpec) -> int:
    return list(spec.placed())[-1].out_size


def _strange(spec: ArchSpec, placed: PlacedRow) -> SpecError:
    return SpecError(
        f"row {placed.index} of {spec.name} is of type {type(placed.row).__name__}",
        wanted="a row that its paper's tables have",
        do="compare with another table",
    )
