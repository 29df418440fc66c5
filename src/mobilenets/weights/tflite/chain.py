"""Values -> one chain of convolutions, from the image to the head."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...arch.layers import Activation
from ...errors import FileFormatError
from .operators import ENDS
from .values import (
    Clip,
    Conv,
    Gated,
    HardSwish,
    Image,
    Mean,
    Other,
    Padded,
    Pads,
    Sum,
    Turned,
    Unit,
    Value,
    folded,
    is_vector,
    parents,
    peel,
)

__all__ = ["Chain", "Head", "Link", "LinkKind", "Refuse", "read_chain"]

Floats: TypeAlias = NDArray[np.float64]
LinkKind = Literal["conv", "pointwise", "depthwise"]
RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE_CONV")  # heads of segmentation end in these


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


@dataclass(frozen=True, eq=False)
class Head:
    """What follows the body. `classifier` is None where the file has none that a table can hold."""

    hidden: Conv | None
    act: Activation
    classifier: Conv | None
    told: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """A whole network: the image's own arithmetic, the body, the head."""

    scale: Floats  # of the file's input numbers, in front of the first link
    shift: Floats
    links: tuple[Link, ...]
    head: Head


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
        """The error for an operator that no MobileNet has."""
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


def read_chain(outputs: Sequence[Value], refuse: Refuse) -> Chain:
    """The chain that ends in a classifier; where there is none, that of the first output.

    Raises:
        FileFormatError: no output is the end of such a chain; names the operator that does not fit the first one.
    """
    found: list[Chain] = []
    failed: list[FileFormatError] = []
    for output in outputs:
        try:
            found.append(_read_output(output, refuse))
        except FileFormatError as error:
            failed.append(error)
    for chain in found:
        if chain.head.classifier is not None:
            return chain
    if found and not failed:
        return found[0]
    raise failed[0] if failed else FileFormatError("no outputs", wanted="a network", do="check the file")


def _read_output(output: Value, refuse: Refuse) -> Chain:
    value, told = output, []
    if isinstance(value, Other) and value.kind in ENDS and len(value.of) == 1:
        value = value.of[0]
    if isinstance(value, Unit):
        told.append(("l2_normalization", f"left out: {refuse.name(value.at)} divides the embedding by its length"))
        value = value.of
    if isinstance(value, Turned):
        value = value.of
    if is_vector(value):
        head, body = _vector_head(value, refuse)
    elif isinstance(value, Other) and _is_dense_prediction(value):
        body = _backbone(value, refuse)
        told.append(("segmentation_head", f"left out: what follows {refuse.name(body.at)}"))
        head = Head(hidden=None, act="none", classifier=None, told=())
    else:
        body, head = value, Head(hidden=None, act="none", classifier=None, told=())
    scale, shift, links = _unwound(body, refuse)
    return Chain(scale=scale, shift=shift, links=links, head=replace(head, told=(*told, *head.told)))


def _vector_head(value: Value, refuse: Refuse) -> tuple[Head, Value]:
    """Hidden layer and classifier, backwards; and the map that is pooled."""
    told: list[tuple[str, str]] = []
    classifier: Conv | None = None
    last = folded(value)
    if isinstance(last, Conv):
        classifier, value = _absorbed(last)
    if isinstance(value, Unit):
        told.append(("l2_normalization", f"left out: {refuse.name(value.at)} stands before the classifier, and"))
        assert classifier is not None
        if classifier.bias.any():
            told[0] = (told[0][0], f"{told[0][1]} its bias would weigh otherwise; so there is no classifier either")
            classifier = None
        else:
            told[0] = (told[0][0], f"{told[0][1]} without it the order of the classes is the same, not their chances")
        value = value.of
    hidden: Conv | None = None
    act, inner = _act(value, refuse)
    last = folded(inner)
    if isinstance(last, Conv):
        hidden, value = _absorbed(last)
    elif act != "none":
        raise refuse(value.at, f"{act} behind pooling", wanted="pooling, [a hidden layer with an activation], a classifier")
    value, scale, shift = peel(value)
    if not isinstance(value, Mean):
        raise refuse(value.at, "more layers behind pooling", wanted="at most one hidden layer and a classifier")
    if (scale != 1).any() or shift.any():
        raise refuse(value.at, "a scaled mean at the end", wanted="the mean itself, or a classifier behind it")
    body = value.of
    return Head(hidden=hidden, act=act, classifier=classifier, told=tuple(told)), body


def _act(value: Value, refuse: Refuse) -> tuple[Activation, Value]:
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


def _absorbed(conv: Conv) -> tuple[Conv, Value]:
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


def _unwound(value: Value, refuse: Refuse) -> tuple[Floats, Floats, tuple[Link, ...]]:
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
        act, value = _act(value, refuse)
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
    return tuple(
        replace(link, joins=None if link.joins is None else last - link.joins) for link in reversed(links)
    )


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
        excite, value = _absorbed(excite)
        act, value = _act(value, refuse)
        squeeze = folded(value)
        if act == "relu" and isinstance(squeeze, Conv):
            squeeze, value = _absorbed(squeeze)
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


def _is_dense_prediction(output: Other) -> bool:
    return any(isinstance(value, Other) and value.kind in RESIZES for value in _ancestors(output))


def _ancestors(value: Value) -> list[Value]:
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


def _backbone(output: Other, refuse: Refuse) -> Value:
    """The last map that everything behind it comes from, and that a chain of rows leads to.

    Raises:
        FileFormatError: branches leave the network in its middle, so that no such map is its end.
    """
    order = _ancestors(output)
    place = {id(value): index for index, value in enumerate(order)}
    front = [-place[id(output)]]
    open_ = {id(output)}
    while front:
        value = order[-heapq.heappop(front)]
        open_.discard(id(value))
        if not open_ and not isinstance(value, Other | Image) and not is_vector(value):
            try:
                _unwound(value, refuse)
            except FileFormatError:
                pass
            else:
                inside = {id(one) for one in _ancestors(value)}
                behind = [one for one in order if id(one) not in inside and isinstance(one, Conv)]
                if any(conv.kind == "depthwise" for conv in behind):
                    raise refuse(
                        value.at,
                        "branches leave the network in its middle, and rows follow",
                        wanted="a backbone that ends where its head begins",
                    )
                return value
        for parent in parents(value):
            if id(parent) not in open_:
                open_.add(id(parent))
                heapq.heappush(front, -place[id(parent)])
    raise refuse.other(output)
