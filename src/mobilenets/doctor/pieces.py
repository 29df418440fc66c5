"""Activations that a file writes as several operators where ONNX has one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from .graph import Graph, Node, scalar

__all__ = ["Pieces", "pieces_of"]

NEAR: Final = 2e-3  # TF-slim writes 1/6 as 0.16667


@dataclass(frozen=True)
class Pieces:
    """One activation, and the operators it is written as."""

    kind: Literal["hard-sigmoid", "hard-swish"]
    nodes: tuple[Node, ...]


def pieces_of(graph: Graph) -> tuple[Pieces, ...]:
    """All of them, in the order of the file.

    hard-sigmoid(x) = clip(x + 3, 0, 6) / 6, or clip(x / 6 + 1 / 2, 0, 1); hard-swish(x) is x times that (Howard et al.
    2019, section 5.2). HardSigmoid and a product with its own input are a hard-swish in two pieces.
    """
    return tuple(found for node in graph.nodes if (found := _at(graph, node)) is not None)


def _at(graph: Graph, node: Node) -> Pieces | None:
    if node.op == "HardSigmoid":
        if abs(float(node.attributes.get("alpha", 0.2)) - 1 / 6) > NEAR:  # ONNX's own default is another function
            return None
        product = _product(graph, node.outputs[0], with_=node.inputs[0])
        return None if product is None else Pieces("hard-swish", (node, product))
    clip = _clip(graph, node)
    before = None if clip is None else graph.maker(graph.source(clip.value))
    if clip is None or before is None:
        return None
    if _near(clip.bounds, (0, 6)):
        return _six(graph, before, clip)
    if _near(clip.bounds, (0, 1)):
        return _one(graph, before, clip)
    return None


@dataclass(frozen=True)
class _Clip:
    value: str  # what is cut off
    bounds: tuple[float | None, float | None]
    nodes: tuple[Node, ...]

    @property
    def made(self) -> str:
        return self.nodes[-1].outputs[0]


def _clip(graph: Graph, node: Node) -> _Clip | None:
    """A Clip, or the smaller of a bound and the larger of another and a value, either way round."""
    if node.op == "Clip":
        return _Clip(node.inputs[0], _bounds(graph, node), (node,))
    outer = _bounded(graph, node)
    inner = None if outer is None else graph.maker(graph.source(outer[0]))
    within = None if inner is None else _bounded(graph, inner)
    if outer is None or inner is None or within is None or {node.op, inner.op} != {"Min", "Max"}:
        return None
    bounds = (within[1], outer[1]) if node.op == "Min" else (outer[1], within[1])
    return _Clip(within[0], bounds, (inner, node))


def _bounded(graph: Graph, node: Node) -> tuple[str, float] | None:
    """What a Min or Max bounds, and by which number."""
    if node.op not in ("Min", "Max") or len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        number = scalar(graph, other)
        if number is not None:
            return one, number
    return None


def _six(graph: Graph, add: Node, clip: _Clip) -> Pieces | None:
    """clip(x + 3, 0, 6), then a sixth before or after the product, if there is a product."""
    value = _operand(graph, add, "Add", 3)
    if value is None:
        return None
    begin = (add, *clip.nodes)
    sixth = _sixth(graph, clip.made)
    if sixth is not None:
        product = _product(graph, sixth.outputs[0], with_=value)
        if product is None:
            return Pieces("hard-sigmoid", (*begin, sixth))
        return Pieces("hard-swish", (*begin, sixth, product))
    product = _product(graph, clip.made, with_=value)
    last = None if product is None else _sixth(graph, product.outputs[0])
    if product is not None and last is not None:
        return Pieces("hard-swish", (*begin, product, last))
    scaled = next((n for n in graph.users(value) if _is_sixth(graph, n, value)), None)  # (x / 6) * clip(x + 3, 0, 6)
    if scaled is not None:
        product = _product(graph, clip.made, with_=scaled.outputs[0])
        if product is not None:
            return Pieces("hard-swish", (*begin, scaled, product))
    return None


def _one(graph: Graph, add: Node, clip: _Clip) -> Pieces | None:
    """clip(x / 6 + 1 / 2, 0, 1)."""
    value = _operand(graph, add, "Add", 0.5)
    scaled = None if value is None else graph.maker(graph.source(value))
    if scaled is None:
        return None
    inner = next((name for name in scaled.inputs if _is_sixth(graph, scaled, name)), None)
    if inner is None:
        return None
    begin = (scaled, add, *clip.nodes)
    product = _product(graph, clip.made, with_=inner)
    return Pieces("hard-sigmoid", begin) if product is None else Pieces("hard-swish", (*begin, product))


def _bounds(graph: Graph, clip: Node) -> tuple[float | None, float | None]:
    if len(clip.inputs) < 2:  # before opset 11 they were attributes
        low, high = clip.attributes.get("min"), clip.attributes.get("max")
        return (None if low is None else float(low), None if high is None else float(high))
    return (scalar(graph, clip.inputs[1]), scalar(graph, clip.inputs[2]) if len(clip.inputs) > 2 else None)


def _near(got: tuple[float | None, float | None], wanted: tuple[float, float]) -> bool:
    return all(a is not None and abs(a - b) <= NEAR for a, b in zip(got, wanted, strict=True))


def _operand(graph: Graph, node: Node, op: str, number: float) -> str | None:
    """What `node` adds `number` to."""
    if node.op != op or len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        value = scalar(graph, other)
        if value is not None and abs(value - number) <= NEAR:
            return one
    return None


def _sixth(graph: Graph, value: str) -> Node | None:
    return next((node for node in graph.users(value) if _is_sixth(graph, node, value)), None)


def _is_sixth(graph: Graph, node: Node, value: str) -> bool:
    """Whether a node is `value` / 6."""
    if node.op not in ("Div", "Mul") or len(node.inputs) != 2:
        return False
    operands: Iterator[tuple[str, str]] = iter([(node.inputs[0], node.inputs[1])])
    if node.op == "Mul":
        operands = iter([(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])])
    wanted = 6 if node.op == "Div" else 1 / 6
    for one, other in operands:
        number = scalar(graph, other)
        if number is not None and abs(number - wanted) <= NEAR and graph.source(one) == graph.source(value):
            return True
    return False


def _product(graph: Graph, value: str, *, with_: str) -> Node | None:
    """The product of two values, if there is one."""
    wanted = {graph.source(value), graph.source(with_)}
    for node in graph.users(value):
        if node.op == "Mul" and len(wanted) == 2 and {graph.source(name) for name in node.inputs} == wanted:
            return node
    return None
