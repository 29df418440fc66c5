"""The body of a network, from its last map back to the image: convolutions with what follows each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...arch.layers import Activation
from ...errors import FileFormatError
from .values import Clip, Conv, Gated, HardSwish, Image, Mean, Other, Padded, Pads, Sum, Value, folded, parents, peel

__all__ = ["Floats", "Link", "LinkKind", "Refuse", "absorbed", "activation_of", "ancestors", "unwound"]

Floats: TypeAlias = NDArray[np.float64]
LinkKind = Literal["conv", "pointwise", "depthwise"]


@dataclass(frozen=True, eq=False)
class Link:
    """A convolution of the body with what follows it: activation, squeeze-and-excite, a sum with an earlier value."""

    at: int  # the operator
    kind: LinkKind
    weight: Floats  # (out, in / groups, k, k)
    bias: Floats
    stride: int
    dilation: int
    pads: Pads  # all zeros that it sees around its input
    in_size: tuple[int, int, int]
    act: Activation
    gate: tuple[Conv, Conv] | None  # squeeze and excite
    joins: int | None  # the link whose input is added to this link's output

    @property
    def kernel(self) -> int:
        """Side of the kernel, pixels."""
        return int(self.weight.shape[2])


class Refuse:
    """Errors that name an operator of the file."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)

    def name(self, at: int) -> str:
        """ "operator 12 CONV_2D"."""
        return f"operator {at} {self.kinds[at]}" if 0 <= at < len(self.kinds) else "the input"

    def __call__(self, at: int, got: str, *, wanted: str) -> FileFormatError:
        """The error for what an operator does."""
        return FileFormatError(
            f"{self.name(at)}: {got}",
            wanted=wanted,
            do="give a MobileNet classifier or feature extractor: only its rows can become a table",
        )

    def other(self, value: Other) -> FileFormatError:
        """The error for an operator that no MobileNet has: the first of those that a value is made with."""
        value = next(one for one in ancestors(value) if isinstance(one, Other))
        if value.kind.startswith("custom edgetpu"):
            return FileFormatError(
                f"{self.name(value.at)}: the file is compiled for the Edge TPU",
                wanted="the weights, which that hides",
                do="give the .tflite file from which it was compiled",
            )
        why = value.why or "it has no place there"
        if value.kind == "LOGISTIC":
            return self(value.at, why, wanted="hard sigmoid, as V3 has it, in gates; softmax or nothing at the end")
        return self(value.at, why, wanted="convolutions, sums, squeeze-and-excite, pooling and a classifier")


def ancestors(value: Value) -> list[Value]:
    """Everything a value is made of and itself, makers first."""
    order: list[Value] = []
    seen: set[int] = set()
    waiting: list[tuple[Value, Iterator[Value]]] = [(value, iter(parents(value)))]
    seen.add(id(value))
    while waiting:
        current, more = waiting[-1]
        for parent in more:
            if id(parent) not in seen:
                seen.add(id(parent))
                waiting.append((parent, iter(parents(parent))))
                break
        else:
            order.append(current)
            waiting.pop()
    return order


def activation_of(value: Value, refuse: Refuse) -> tuple[Activation, Value]:
    """The activation that a value ends with, and what it is of."""
    if isinstance(value, HardSwish):
        return "hard_swish", value.of
    if isinstance(value, Clip):
        if value.low == 0 and value.high == np.inf:
            return "relu", value.of
        if value.low == 0 and abs(value.high - 6) < 1e-6:
            return "relu6", value.of
        raise refuse(value.at, f"numbers kept from {value.low:g} to {value.high:g}", wanted="relu, relu6 or hard swish")
    return "none", value


def absorbed(conv: Conv) -> tuple[Conv, Value]:
    """A linear layer with what scales and shifts its input taken into it; and that input."""
    base, scale, shift = peel(conv.of)
    if base is conv.of or isinstance(base, Conv | Image):
        return conv, conv.of
    return _taken(conv, scale, shift), base


def _taken(conv: Conv, scale: Floats, shift: Floats) -> Conv:
    inputs = conv.weight.shape[1] if conv.kind == "conv" else conv.weight.shape[0]
    sides = (1, -1, 1, 1) if conv.kind == "conv" else (-1, 1, 1, 1)
    scale, shift = np.broadcast_to(scale, inputs), np.broadcast_to(shift, inputs)
    bias = conv.bias + (conv.weight * shift.reshape(sides)).sum(axis=(1, 2, 3))
    return replace(conv, weight=conv.weight * scale.reshape(sides), bias=bias)


def unwound(value: Value, refuse: Refuse) -> tuple[Floats, Floats, tuple[Link, ...]]:
    """The body from its end to the image."""
    links: list[Link] = []  # backwards; `joins` counts from the back as well, until the end
    waiting: list[tuple[int, Value]] = []  # the link whose output gets a sum, and the value that is added there
    while True:
        short: Value | None = None
        base, scale, shift = peel(value)
        if isinstance(base, Image):
            if not links:
                raise refuse(-1, "no convolution follows it", wanted="a MobileNet")
            if waiting:
                raise refuse(links[waiting[0][0]].at, "a sum that leaves the chain", wanted="sums around one row")
            return scale, shift, _forwards(links)
        if isinstance(value, Sum):
            value, short = _branches(value, refuse)
        gate: tuple[Conv, Conv] | None = None
        if isinstance(value, Gated):
            gate, value = _gate(value, refuse), value.of
        act, value = activation_of(value, refuse)
        conv = folded(value)
        if not isinstance(conv, Conv):
            raise _misplaced(conv, refuse)
        links.append(_link(conv, act=act, gate=gate, refuse=refuse))
        if short is not None:
            waiting.append((len(links) - 1, short))
        links[-1], value = _input_of(conv, links[-1], refuse)
        if waiting and waiting[-1][1] is value:
            end, _ = waiting.pop()
            links[end] = replace(links[end], joins=len(links) - 1)
        elif waiting and isinstance(value, Sum):
            raise refuse(value.at, "a sum inside what another sum goes around", wanted="sums around one row")


def _forwards(links: list[Link]) -> tuple[Link, ...]:
    last = len(links) - 1
    return tuple(replace(link, joins=None if link.joins is None else last - link.joins) for link in reversed(links))


def _branches(total: Sum, refuse: Refuse) -> tuple[Value, Value]:
    """Of the two that are added, the one that comes from the other, and that other."""
    for main, short in ((total.left, total.right), (total.right, total.left)):
        value = main
        while value is not short and not isinstance(value, Image | Sum | Mean | Other):
            value = value.of
        if value is short and main is not short:
            return main, short
    raise refuse(total.at, "a sum of two branches", wanted="a row's input added to its output")


def _gate(gated: Gated, refuse: Refuse) -> tuple[Conv, Conv]:
    """Squeeze and excite of a gate: mean, 1x1, ReLU, 1x1."""
    wanted = "squeeze-and-excite: mean of the same map, 1x1 convolution, ReLU, 1x1 convolution, hard sigmoid"
    excite = folded(gated.gate)
    if isinstance(excite, Conv):
        excite, value = absorbed(excite)
        act, value = activation_of(value, refuse)
        squeeze = folded(value)
        if act == "relu" and isinstance(squeeze, Conv):
            squeeze, value = absorbed(squeeze)
            if isinstance(value, Mean) and value.of is gated.of:
                return squeeze, excite
    raise refuse(gated.at, "a product with another vector", wanted=wanted)


def _misplaced(value: Value, refuse: Refuse) -> FileFormatError:
    if isinstance(value, Other):
        return refuse.other(value)
    got = {
        "Mean": "pooling in the middle of the network",
        "Sum": "an activation or a scale behind a sum",
        "Gated": "an activation or a scale behind a squeeze-and-excite",
        "Padded": "zeros around a map that is not convolved",
        "Turned": "a map with its sides in another order",
    }.get(type(value).__name__, f"{type(value).__name__} in a row")
    return refuse(value.at, got, wanted="a convolution, with at most an activation and a squeeze-and-excite behind it")


def _link(conv: Conv, *, act: Activation, gate: tuple[Conv, Conv] | None, refuse: Refuse) -> Link:
    kernel, stride, dilation = conv.weight.shape[2], conv.stride, conv.dilation
    if kernel % 2 == 0 or stride > 2 or (stride > 1 and dilation > 1 and kernel > 1):
        raise refuse(
            conv.at,
            f"kernel {kernel}, stride {stride}, dilation {dilation}",
            wanted="an odd kernel, a stride of at most 2, and one of stride and dilation 1",
        )
    kind: LinkKind = "depthwise" if conv.kind == "depthwise" else "pointwise" if kernel == 1 else "conv"
    return Link(
        at=conv.at,
        kind=kind,
        weight=conv.weight,
        bias=conv.bias,
        stride=conv.stride,
        dilation=conv.dilation if kernel > 1 else 1,
        pads=conv.pads,
        in_size=conv.of.size,
        act=act,
        gate=gate,
        joins=None,
    )


def _input_of(conv: Conv, link: Link, refuse: Refuse) -> tuple[Link, Value]:
    """The link with zeros and scales of its input taken into it; and that input."""
    value = conv.of
    base, scale, shift = peel(value)
    if isinstance(base, Padded):
        if shift.any():
            raise refuse(conv.at, "its input is padded with zeros, then shifted", wanted="zeros right before it")
        pads = tuple(one + other for one, other in zip(link.pads, base.pads, strict=True))
        conv = _taken(conv, scale, shift)
        link = replace(link, weight=conv.weight, pads=(pads[0], pads[1], pads[2], pads[3]), in_size=base.of.size)
        value = base.of
        base, scale, shift = peel(value)
    if base is value or isinstance(base, Conv | Image):
        return link, value
    if shift.any() and any(link.pads):
        raise refuse(conv.at, "its input is shifted, then padded with zeros", wanted="a norm behind its convolution")
    conv = _taken(conv, scale, shift)
    return replace(link, weight=conv.weight, bias=conv.bias), base
