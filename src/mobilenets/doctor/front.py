"""What a file does with its pixels before the first layer: moving, scaling, subtracting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, Node, scalar

__all__ = ["Front", "front_of"]

WHOLE: Final = 0.1  # 1 / (255 std) is 0.02 or less, while a scale of its own is 1 or 1 / std
_MOVES: Final = ((0, 3, 1, 2), (0, 2, 3, 1))


@dataclass(frozen=True, eq=False)
class Front:
    """The numbers x that the first layer reads of an input p: x = scale * p + shift, channel by channel.

    Args:
        value: what the first layer reads.
        planes: that value is (N, C, H, W); else (N, H, W, C).
        input_planes: likewise for the input.
        scale, shift: (C,).
        nodes: names of the operators in between.
    """

    value: str
    planes: bool
    input_planes: bool
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    nodes: frozenset[str]

    @property
    def scales(self) -> bool:
        """Whether the file normalises; else whoever feeds it does."""
        return bool((self.scale != 1).any() or (self.shift != 0).any())

    @property
    def whole(self) -> bool:
        """Whether it makes normalised numbers of bytes; else a part of that is in the first layer's weights."""
        return bool((self.scale > 0).all() and self.scale.max() < WHOLE)

    def normalisation(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and std, each (C,), of values in [0, 1], that the file normalises bytes with."""
        std = 1 / (255 * self.scale)
        return -self.shift * std, std


def front_of(graph: Graph) -> Front | None:
    """Of a file with one image as its input; None where it is no image of 1 or 3 channels."""
    shape = graph.inputs[0].shape
    if len(shape) != 4:
        return None
    channels_at = [place for place in (1, 3) if shape[place] in (1, 3)]
    if not channels_at:
        return None
    planes = channels_at == [1] or (len(channels_at) == 2 and not graph.pixels)
    channels = int(shape[1 if planes else 3] or 0)
    input_planes, value = planes, graph.inputs[0].name
    scale, shift = np.ones(channels), np.zeros(channels)
    passed: set[str] = set()
    while True:
        readers = graph.readers(value)
        if len(readers) != 1 or len(readers[0].outputs) != 1:
            break
        (node,) = readers
        if node.op == "Transpose" and tuple(node.attributes.get("perm", ())) in _MOVES:
            planes = tuple(node.attributes["perm"]) == (0, 3, 1, 2)
        elif node.op == "Cast" and graph.shapes.get(node.outputs[0], shape) is not None:
            pass
        else:
            step = _affine(graph, node, value, planes=planes, channels=channels)
            if step is None:
                break
            scale, shift = scale * step[0], shift * step[0] + step[1]
        passed.add(node.name)
        value = node.outputs[0]
    return Front(value, planes, input_planes, scale, shift, frozenset(passed))


def _affine(
    graph: Graph, node: Node, value: str, *, planes: bool, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factor and summand (C,) of one step; None where it is another kind of step."""
    if node.op == "DequantizeLinear" and value == graph.inputs[0].name:
        return _dequantized(graph, node, channels)
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    first = graph.source(node.inputs[0]) == graph.source(value)
    constant = graph.constants.get(graph.source(node.inputs[1 if first else 0]))
    number = None if constant is None else _per_channel(constant, planes=planes, channels=channels)
    if number is None:
        return None
    one, none = np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return number, none
    if node.op == "Add":
        return one, number
    if node.op == "Div":
        return (1 / number, none) if first and (number != 0).all() else None
    return (one, -number) if first else (-one, number)


def _dequantized(graph: Graph, node: Node, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """An input in bytes of its own scale, as quantised LiteRT files have it."""
    scale = scalar(graph, node.inputs[1])
    zero = scalar(graph, node.inputs[2]) if len(node.inputs) > 2 else 0.0
    if scale is None or zero is None:
        return None
    return np.full(channels, scale), np.full(channels, -scale * zero)


def _per_channel(constant: NDArray[np.generic], *, planes: bool, channels: int) -> NDArray[np.float64] | None:
    values = np.asarray(constant, np.float64)
    if values.size == 1:
        return np.full(channels, float(values.reshape(-1)[0]))
    sides = (1,) * (4 - values.ndim) + values.shape
    wanted = (1, channels, 1, 1) if planes else (1, 1, 1, channels)
    return values.reshape(-1) if len(sides) == 4 and sides == wanted else None
