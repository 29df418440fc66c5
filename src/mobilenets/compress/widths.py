"""Which numbers of a table are widths, and where each of them lives in the tensors. Read from the rows; nothing runs.

A residual addition ties the widths it adds, a depthwise convolution the one before it to the one behind it: what is
tied is one width here, with every field of the table that holds it and every axis of every tensor along which it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..arch import (
    ArchSpec,
    AttentionRow,
    BottleneckRow,
    ConvRow,
    FusedRow,
    Layer,
    SeparableRow,
    UniversalRow,
)
from ..errors import SpecError

__all__ = ["Axis", "Factor", "Place", "Role", "Width", "WiredLayer", "axes", "widths", "wiring"]

# An axis of a tensor has as many elements as the product of its factors, the outermost first: a width by its name, or a
# number that stays. Only an attention has axes of two factors: the channels of every head.
Factor: TypeAlias = str | int
Axis: TypeAlias = tuple[Factor, ...]
Ends: TypeAlias = tuple[Axis, Axis]  # what a layer reads, what it gives

# What a tensor does with a width: its filters make it, something per channel goes with it (depthwise convolution, norm,
# bias, layer scale), or its filters read it.
Role = Literal["makes", "carries", "reads"]

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An axis of a tensor along which a width lies.

    The axis has times x size x block elements, in this order: unit u of the width is its elements
    (t * size + u) * block + b for all t below `times` and b below `block`.
    """

    tensor: str  # its name in the network's state dict
    axis: int
    role: Role
    times: int = 1
    block: int = 1


class Width(msgspec.Struct, frozen=True, kw_only=True):
    """A number of channels that can be made smaller, alone.

    Of an attention, `heads` counts whole heads and `value_width` the channels of a value in every head. The width of
    its keys is none of these: the scores are divided by its root, so that fewer of them would be another function.
    """

    name: str  # the first of its fields
    size: int
    fields: tuple[str, ...]  # of the table, "rows.3.out"; all of them hold `size`
    places: tuple[Place, ...]


class WiredLayer(NamedTuple):
    """A layer of a table, and which widths its ends are."""

    at: str  # the prefix of its tensors' names
    layer: Layer
    inputs: Axis
    outputs: Axis


def widths(spec: ArchSpec) -> tuple[Width, ...]:
    """Every width of a table that can be made smaller, in the order in which the table first has it.

    Those of the image, of the classes, and of rows that add their output to the image are none of them.

    Raises:
        SpecError: a type of row that is not known here.
    """
    fields: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for field, name, size in _fields(spec):
        fields.setdefault(name, []).append(field)
        sizes[name] = size
    places: dict[str, list[Place]] = {name: [] for name in fields}
    for tensor, (own, role_of) in _tensors(spec).items():
        for number, axis in enumerate(own):
            lengths = [factor if isinstance(factor, int) else sizes[factor] for factor in axis]
            for position, factor in enumerate(axis):
                if isinstance(factor, str):
                    times, block = math.prod(lengths[:position]), math.prod(lengths[position + 1 :])
                    places[factor].append(
                        Place(tensor=tensor, axis=number, role=role_of(number), times=times, block=block)
                    )
    return tuple(
        Width(name=name, size=sizes[name], fields=tuple(held), places=tuple(places[name]))
        for name, held in fields.items()
    )


def axes(spec: ArchSpec) -> Mapping[str, tuple[Axis, ...]]:
    """Every tensor of a table's network, by its name in the state dict, with what its axes are made of.

    Raises:
        SpecError: a type of row that is not known here.
    """
    return {name: own for name, (own, _) in _tensors(spec).items()}


def wiring(spec: ArchSpec) -> tuple[WiredLayer, ...]:
    """The layers of a table and their widths, in the order of `arch.cost(spec).layers`.

    Raises:
        SpecError: a type of row that is not known here.
    """
    wired: list[WiredLayer] = []
    outs = _outs(spec)
    before: Factor = spec.channels
    for placed, out in zip(spec.placed(), outs, strict=True):
        row = placed.row
        if type(row) not in _ENDS:
            raise SpecError(
                f"a row of type {type(row).__name__}",
                wanted="one of " + ", ".join(kind.__name__ for kind in _ENDS),
                do="say in compress/widths.py which of its widths are tied",
            )
        at = f"rows.{placed.index}"
        ends = _ENDS[type(row)](row, at, (before,), (out,))
        for layer in row.layers(placed.in_channels):
            inside = f"{at}.excite.{layer.name}" if layer.name in ("squeeze", "excite") else f"{at}.{layer.name}"
            wired.append(WiredLayer(inside, layer, *ends[layer.name]))
        before = out
    for layer in spec.head.layers(spec.out_channels):
        given: Factor = "head.hidden" if layer.name == "hidden" else spec.head.classes
        wired.append(WiredLayer(f"head.{layer.name}", layer, (before,), (given,)))
        before = given
    return tuple(wired)


def _outs(spec: ArchSpec) -> tuple[Factor, ...]:
    """The width of each row's output: that of its input where the two are added."""
    outs: list[Factor] = []
    before: Factor = spec.channels
    for placed in spec.placed():
        if not placed.row.residual(placed.in_channels):
            before = f"rows.{placed.index}.out"
        outs.append(before)
    return tuple(outs)


def _fields(spec: ArchSpec) -> Iterator[tuple[str, str, int]]:
    """(field, name of its width, size) for every field of the table that holds a width that can change."""
    for placed, out in zip(spec.placed(), _outs(spec), strict=True):
        row, at = placed.row, f"rows.{placed.index}"
        inside: dict[str, int | None] = {}
        if isinstance(row, BottleneckRow):
            inside = {"expanded": row.expanded, "squeezed": row.squeezed}
        elif isinstance(row, FusedRow | UniversalRow):
            inside = {"expanded": row.expanded}
        elif isinstance(row, AttentionRow):
            inside = {"heads": row.heads, "value_width": row.value_width}
        for field, size in inside.items():
            if size is not None:
                yield f"{at}.{field}", f"{at}.{field}", size
        if isinstance(out, str):
            yield f"{at}.out", out, row.out
    if spec.head.hidden is not None:
        yield "head.hidden", "head.hidden", spec.head.hidden


def _tensors(spec: ArchSpec) -> dict[str, tuple[tuple[Axis, ...], Callable[[int], Role]]]:
    """Every tensor with its axes, and the role of each axis by its number."""
    found: dict[str, tuple[tuple[Axis, ...], Callable[[int], Role]]] = {}
    for at, layer, inputs, outputs in wiring(spec):
        if layer.kind == "attention":
            continue  # products of what other layers made
        if layer.kind == "scale":
            found[f"{at}.gamma"] = ((outputs,), _carries)
            continue
        bare = layer.on == "vector"  # squeeze-and-excite and the head have no norm of their own beside them
        if layer.kind == "norm":
            norm = at
        else:
            norm = "head.norm" if bare else f"{at}.norm"
            conv = at if bare else f"{at}.conv"
            kernel = () if layer.kind == "linear" else ((layer.kernel,), (layer.kernel,))
            if layer.kind == "depthwise":
                found[f"{conv}.weight"] = ((outputs, (1,), *kernel), _carries)
            else:
                found[f"{conv}.weight"] = ((outputs, inputs, *kernel), _dense)
            if layer.bias:
                found[f"{conv}.bias"] = ((outputs,), _carries)
        if layer.norm:
            found |= {f"{norm}.{name}": ((outputs,), _carries) for name in NORM_TENSORS}
    return found


def _carries(axis: int) -> Role:
    return "carries"


def _dense(axis: int) -> Role:
    return "makes" if axis == 0 else "reads"


# Row type -> the ends of its layers, by their names.


def _conv(row: ConvRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    return {"conv": (before, out)}


def _separable(row: SeparableRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    return {"depthwise": (before, before), "project": (before, out)}


def _bottleneck(row: BottleneckRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    middle: Axis = before if row.expanded is None else (f"{at}.expanded",)
    squeezed: Axis = (f"{at}.squeezed",)
    return {
        "expand": (before, middle),
        "depthwise": (middle, middle),
        "squeeze": (middle, squeezed),
        "excite": (squeezed, middle),
        "project": (middle, out),
    }


def _fused(row: FusedRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    middle: Axis = (f"{at}.expanded",)
    return {"expand": (before, middle), "project": (middle, out)}


def _universal(row: UniversalRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    middle: Axis = (f"{at}.expanded",)
    return {
        "start": (before, before),
        "expand": (before, middle),
        "middle": (middle, middle),
        "project": (middle, out),
        "layer_scale": (out, out),
    }


def _attention(row: AttentionRow, at: str, before: Axis, out: Axis) -> dict[str, Ends]:
    heads, value = f"{at}.heads", f"{at}.value_width"
    return {
        "norm": (before, before),
        "query": (before, (heads, row.key_width)),
        "key_down": (before, before),
        "key": (before, (row.key_width,)),
        "value_down": (before, before),
        "value": (before, (value,)),
        "attend": ((heads, row.key_width), (heads, value)),
        "project": ((heads, value), out),
        "layer_scale": (out, out),
    }


_ENDS: Mapping[type[Any], Callable[..., dict[str, Ends]]] = MappingProxyType(
    {
        ConvRow: _conv,
        SeparableRow: _separable,
        BottleneckRow: _bottleneck,
        FusedRow: _fused,
        UniversalRow: _universal,
        AttentionRow: _attention,
    }
)
