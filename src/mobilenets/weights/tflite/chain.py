"""Values -> one chain of convolutions, from the image to the head."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...arch.layers import Activation
from ...errors import FileFormatError
from .links import Floats, Link, Refuse, absorbed, activation_of, ancestors, unwound
from .operators import ENDS
from .values import Conv, Image, Mean, Other, Turned, Unit, Value, folded, is_vector, parents, peel

__all__ = ["Chain", "Head", "read_chain"]

RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE_CONV")  # heads of segmentation end in these


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
    if failed:
        raise failed[0]
    if len(found) == 1:
        return found[0]
    raise FileFormatError(
        f"the graph has {len(found)} outputs, and no classifier among them",
        wanted="logits of classes, or one output of features",
        do="give a classifier, or a feature extractor with one output",
    )


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
    scale, shift, links = unwound(body, refuse)
    return Chain(scale=scale, shift=shift, links=links, head=replace(head, told=(*told, *head.told)))


def _vector_head(value: Value, refuse: Refuse) -> tuple[Head, Value]:
    """Hidden layer and classifier, backwards; and the map that is pooled."""
    told: list[tuple[str, str]] = []
    classifier: Conv | None = None
    last = folded(value)
    if isinstance(last, Conv):
        classifier, value = absorbed(last)
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
    act, inner = activation_of(value, refuse)
    last = folded(inner)
    if isinstance(last, Conv):
        hidden, value = absorbed(last)
    elif act != "none":
        raise refuse(
            value.at, f"{act} behind pooling", wanted="pooling, [a hidden layer with an activation], a classifier"
        )
    value, scale, shift = peel(value)
    if not isinstance(value, Mean):
        raise refuse(value.at, "more layers behind pooling", wanted="at most one hidden layer and a classifier")
    if (scale != 1).any() or shift.any():
        raise refuse(value.at, "a scaled mean at the end", wanted="the mean itself, or a classifier behind it")
    body = value.of
    return Head(hidden=hidden, act=act, classifier=classifier, told=tuple(told)), body


def _is_dense_prediction(output: Other) -> bool:
    return any(isinstance(value, Other) and value.kind in RESIZES for value in ancestors(output))


def _is_classifier(links: Sequence[Link]) -> bool:
    """Whether a body ends in a convolution that gives each pixel its logits: no activation, and no row's projection."""
    before = links[-2].kind if len(links) > 1 else None
    return links[-1].act == "none" and links[-1].joins is None and before != "depthwise"


def _backbone(output: Other, refuse: Refuse) -> Value:
    """The last map that everything behind it comes from, and that a chain of rows leads to.

    Raises:
        FileFormatError: branches leave the network in its middle, so that no such map is its end.
    """
    order = ancestors(output)
    place = {id(value): index for index, value in enumerate(order)}
    front = [-place[id(output)]]
    open_ = {id(output)}
    while front:
        value = order[-heapq.heappop(front)]
        open_.discard(id(value))
        if not open_ and not isinstance(value, Other | Image) and not is_vector(value):
            try:
                _, _, links = unwound(value, refuse)
            except FileFormatError:
                links = ()
            if links and not _is_classifier(links):
                inside = {id(one) for one in ancestors(value)}
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
