"""A chain of convolutions -> rows of a table, and the tensors by our names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...arch import BottleneckRow, ConvRow, FusedRow, Row, SeparableRow, UniversalRow
from ...arch.spec import Norm, Padding
from .chain import Head
from .links import Link, Refuse
from .values import Conv, same_pads

__all__ = ["Tensors", "head_tensors", "match_rows", "padding_of", "row_tensors"]

Tensors: TypeAlias = dict[str, NDArray[np.float32]]
WANTED = (
    "a MobileNet row there: a convolution; depthwise, pointwise; or [expand,] depthwise, [squeeze-and-excite,] project"
    " with its input added or not"
)


@dataclass(frozen=True)
class _Match:
    """A row that fits some links."""

    row: Row
    length: int


def match_rows(links: Sequence[Link], refuse: Refuse) -> tuple[Row, ...]:
    """The rows that the links are, grouped as the papers do where there is a choice.

    Raises:
        FileFormatError: some link does not continue a row; names its operator.
    """
    # What is left of each place, from the end; None where nothing fits.
    best: list[tuple[Row, ...] | None] = [None] * len(links) + [()]
    for start in reversed(range(len(links))):
        for match in _matches(links, start):
            rest = best[start + match.length]
            if rest is not None:
                best[start] = (match.row, *rest)
                break
    if best[0] is None:
        reached = {0}
        for start in range(len(links)):
            if start in reached:
                reached |= {start + match.length for match in _matches(links, start)}
        furthest = max(index for index in reached if index < len(links))
        raise refuse(links[furthest].at, _described(links[furthest:]), wanted=WANTED)
    return _universal(best[0])


def _universal(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Where some rows are V4's, those that V2 has as well are V4's too: the same function under one name."""
    if not any(isinstance(row, UniversalRow) for row in rows):
        return rows
    return tuple(
        UniversalRow(
            out=row.out,
            expanded=row.expanded,
            middle_kernel=row.kernel,
            stride=row.stride,
            dilation=row.dilation,
            act=row.act,
            shortcut=row.shortcut,
        )
        if isinstance(row, BottleneckRow) and row.expanded is not None and row.squeezed is None
        else row
        for row in rows
    )


def _matches(links: Sequence[Link], start: int) -> Iterator[_Match]:
    """Rows that may begin at a link, the likeliest first."""
    some = links[start : start + 4]
    for length, row in _shapes(some):
        whole = some[:length]
        if any(link.joins is not None for link in whole[:-1]):
            continue
        joins = whole[-1].joins
        if joins is not None and joins != start:
            continue
        in_channels = whole[0].in_size[2]
        if row.residual(in_channels) != (joins is not None):
            if joins is not None or isinstance(row, ConvRow | SeparableRow):
                continue
            row = msgspec.structs.replace(row, shortcut=False)
        yield _Match(row, length)


def _shapes(some: Sequence[Link]) -> Iterator[tuple[int, Row]]:
    """What the next links could be by their kinds, strides and activations; sums are not looked at."""
    kinds = tuple(link.kind for link in some)
    gates = tuple(link.gate for link in some)
    acts = tuple(link.act for link in some)
    first = some[0]
    if kinds[:2] == ("depthwise", "pointwise") and gates[1] is None and _plain(some[1]):
        if acts[1] == "none":
            yield 2, _bottleneck(None, *some[:2])
        elif acts[0] == acts[1] and gates[0] is None:
            yield (
                2,
                SeparableRow(
                    out=_out(some[1]), kernel=first.kernel, stride=first.stride, dilation=first.dilation, act=first.act
                ),
            )
    if kinds[:3] == ("pointwise", "depthwise", "pointwise") and acts[2] == "none":
        expand, depthwise, project = some[:3]
        if acts[0] == acts[1] and gates[0] is None and gates[2] is None and _plain(expand) and _plain(project):
            yield 3, _bottleneck(expand, depthwise, project)
    yield from _universal_shapes(some, kinds, acts)
    if kinds[:2] == ("conv", "pointwise") and acts[1] == "none" and not any(gates[:2]) and _plain(some[1]):
        yield (
            2,
            FusedRow(
                out=_out(some[1]),
                expanded=_out(first),
                kernel=first.kernel,
                stride=first.stride,
                dilation=first.dilation,
                act=first.act,
            ),
        )
    if first.kind != "depthwise" and first.gate is None:
        yield (
            1,
            ConvRow(out=_out(first), kernel=first.kernel, stride=first.stride, dilation=first.dilation, act=first.act),
        )


def _universal_shapes(some: Sequence[Link], kinds: tuple[str, ...], acts: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    """V4's rows that V2 does not have: with a depthwise convolution at the start, or with none."""
    for length, wanted in (
        (4, ("depthwise", "pointwise", "depthwise", "pointwise")),
        (3, ("depthwise", "pointwise", "pointwise")),
        (2, ("pointwise", "pointwise")),
    ):
        if kinds[:length] != wanted or any(link.gate for link in some[:length]):
            continue
        start = some[0] if wanted[0] == "depthwise" else None
        expand = some[0 if start is None else 1]
        middle = some[2] if length == 4 else None
        inner = [acts[i] for i in range(0 if start is None else 1, length - 1)]
        strided = middle or start
        dilations = {link.dilation for link in (start, middle) if link is not None and link.kernel > 1}
        if (
            (start is None or start.act == "none")
            and acts[length - 1] == "none"
            and len(set(inner)) == 1
            and _plain(expand)
            and _plain(some[length - 1])
            and (middle is None or start is None or start.stride == 1)
            and len(dilations) <= 1
        ):
            yield (
                length,
                UniversalRow(
                    out=_out(some[length - 1]),
                    expanded=_out(expand),
                    start_kernel=None if start is None else start.kernel,
                    middle_kernel=None if middle is None else middle.kernel,
                    stride=1 if strided is None else strided.stride,
                    dilation=max(dilations, default=1),
                    act=expand.act,
                ),
            )


def _bottleneck(expand: Link | None, depthwise: Link, project: Link) -> BottleneckRow:
    return BottleneckRow(
        out=_out(project),
        expanded=None if expand is None else _out(expand),
        kernel=depthwise.kernel,
        stride=depthwise.stride,
        dilation=depthwise.dilation,
        act=depthwise.act,
        squeezed=None if depthwise.gate is None else int(depthwise.gate[0].weight.shape[0]),
    )


def _out(link: Link) -> int:
    return int(link.weight.shape[0])


def _plain(link: Link) -> bool:
    """Whether a pointwise convolution does nothing else."""
    return link.stride == 1


def _described(links: Sequence[Link]) -> str:
    shown = [
        f"{link.kind} {link.kernel}x{link.kernel} stride {link.stride} to {_out(link)}, {link.act}"
        + (", squeeze-and-excite" if link.gate else "")
        + (", sum" if link.joins is not None else "")
        for link in links[:3]
    ]
    return "no row begins with: " + "; ".join(shown)


def padding_of(links: Sequence[Link], refuse: Refuse) -> Padding:
    """The one convention by which all links are padded; TensorFlow's where both would do.

    Raises:
        FileFormatError: a convolution is padded by neither, or two of them differently.
    """
    possible: list[Padding] = ["same", "symmetric"]
    for link in links:
        reach = link.dilation * (link.kernel - 1) + 1
        vertical, horizontal = (same_pads(side, reach=reach, stride=link.stride) for side in link.in_size[:2])
        same = (*vertical, *horizontal)
        fits: dict[Padding, bool] = {"same": link.pads == same, "symmetric": link.pads == (reach // 2,) * 4}
        left = [padding for padding in possible if fits[padding]]
        if not left:
            raise refuse(
                link.at,
                f"zeros of {link.pads} (top, bottom, left, right) around {link.in_size[0]}x{link.in_size[1]}"
                f" for a kernel of {reach} and stride {link.stride}",
                wanted=f"{' or '.join(possible)} padding, as the convolutions before it",
            )
        possible = left
    return possible[0]


def row_tensors(rows: Sequence[Row], links: Sequence[Link], norm: Norm) -> Tensors:
    """The tensors of the rows: weights as they are, biases as the shift of norms that change nothing else."""
    tensors: Tensors = {}
    rest = iter(links)
    channels = links[0].in_size[2]
    for index, row in enumerate(rows):
        for layer in row.layers(channels):
            if layer.name in ("squeeze", "excite"):
                continue
            link = next(rest)
            at = f"rows.{index}.{layer.name}"
            _put_conv(tensors, f"{at}.conv", link.weight)
            _put_norm(tensors, f"{at}.norm", link.bias, norm)
            if link.gate is not None:
                for name, conv in zip(("squeeze", "excite"), link.gate, strict=True):
                    _put_conv(tensors, f"rows.{index}.excite.{name}", conv.weight)
                    tensors[f"rows.{index}.excite.{name}.bias"] = conv.bias.astype(np.float32)
        channels = row.out
    return tensors


def head_tensors(head: Head, norm: Norm, *, hidden_norm: bool) -> Tensors:
    """The tensors of the head's hidden layer and classifier, as far as there are any."""
    tensors: Tensors = {}
    for name, conv in (("hidden", head.hidden), ("classifier", head.classifier)):
        if conv is None:
            continue
        tensors[f"head.{name}.weight"] = _matrix(conv)
        if name == "hidden" and hidden_norm:
            _put_norm(tensors, "head.norm", conv.bias, norm)
        else:
            tensors[f"head.{name}.bias"] = conv.bias.astype(np.float32)
    return tensors


def _matrix(conv: Conv) -> NDArray[np.float32]:
    return conv.weight.reshape(conv.weight.shape[0], -1).astype(np.float32)


def _put_conv(tensors: Tensors, at: str, weight: NDArray[np.float64]) -> None:
    tensors[f"{at}.weight"] = weight.astype(np.float32)


def _put_norm(tensors: Tensors, at: str, bias: NDArray[np.float64], norm: Norm) -> None:
    """A norm that adds `bias` and no more: its variance and eps make 1 together."""
    tensors[f"{at}.weight"] = np.ones(bias.size, np.float32)
    tensors[f"{at}.bias"] = bias.astype(np.float32)
    tensors[f"{at}.running_mean"] = np.zeros(bias.size, np.float32)
    tensors[f"{at}.running_var"] = np.full(bias.size, 1 - norm.eps, np.float32)
