"""A model file as the rules see it: one vocabulary, ONNX's, whatever the format. No torch.

Numbers that a file keeps as bytes are written as ONNX writes them: DequantizeLinear behind a constant, QuantizeLinear
and DequantizeLinear around what is computed. So a rule about ranges reads ONNX, LiteRT and OpenVINO files alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..records import Format

__all__ = ["COMPUTES", "PASSES", "Graph", "Node", "Port", "mult_adds", "scalar", "short", "weight_of"]

COMPUTES: Final = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})  # operators with mult-adds
LONGEST: Final = 60
# What hands a value on: the same numbers, up to rounding.
PASSES: Final = frozenset({"Identity", "QuantizeLinear", "DequantizeLinear", "Cast"})


@dataclass(frozen=True, eq=False)
class Node:
    """An operator; values by name, "" for an input that is left away."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Port:
    """An input or output of the file; a side that is free has None."""

    name: str
    type: str  # numpy's name
    shape: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """The operators of a file, in an order that can be run.

    Args:
        format: of the file.
        nodes: operators; constants and what only renames a value are no nodes.
        constants: by name.
        inputs: what the file is fed.
        outputs: what it answers, the logits first.
        shapes: of values as far as known; a free side is None.
        pixels: maps are (N, H, W, C), as LiteRT has them, and not (N, C, H, W).
        opset: of ONNX files.
        metadata: what the file says of itself.
    """

    format: Format
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    shapes: Mapping[str, tuple[int | None, ...]]
    pixels: bool = False
    opset: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _makers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def _readers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return readers

    def maker(self, value: str) -> Node | None:
        """The node that computes a value; None for inputs and constants."""
        return self._makers.get(value)

    def readers(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return tuple(self._readers.get(value, ()))

    def source(self, value: str) -> str:
        """The value that this one is, up to rounding: back over quantising, casts and names."""
        node = self.maker(value)
        while node is not None and node.op in PASSES and node.inputs:
            value = node.inputs[0]
            node = self.maker(value)
        return value

    def users(self, value: str) -> tuple[Node, ...]:
        """The nodes that compute with a value: forward over quantising, casts and names."""
        found: list[Node] = []
        for node in self.readers(value):
            found += self.users(node.outputs[0]) if node.op in PASSES and node.inputs[0] == value else [node]
        return tuple(found)

    def side(self, value: str) -> int | None:
        """Height of a map; None where it is no map or not known."""
        shape = self.shapes.get(value, ())
        return shape[1 if self.pixels else 2] if len(shape) == 4 else None

    def elements(self, value: str) -> int:
        """Numbers in a value for one image; 0 where its shape is not known. A free side counts as one."""
        shape = self.shapes.get(value)
        return 0 if shape is None else int(np.prod([side or 1 for side in shape], dtype=np.int64))

    def works(self, *ops: str) -> tuple[Node, ...]:
        """The nodes of these kinds."""
        return tuple(node for node in self.nodes if node.op in ops)


def short(name: str) -> str:
    """A name for a sentence: LiteRT's converter strings all names together that it fused, and paths get long."""
    first = name.partition(";")[0]
    return first if len(first) <= LONGEST else "..." + first[-LONGEST:]


def scalar(graph: Graph, value: str) -> float | None:
    """A constant that is one number, written once or many times; None for everything else."""
    array = graph.constants.get(graph.source(value))
    if array is None or not array.size or array.dtype.kind not in "fiu":
        return None
    first = float(array.reshape(-1)[0])
    return first if np.all(array == array.reshape(-1)[0]) else None


def weight_of(graph: Graph, node: Node) -> NDArray[Any] | None:
    """The filter or matrix of a node that computes, as it is kept; None where that is no constant."""
    if node.op not in COMPUTES or len(node.inputs) < 2:
        return None
    return graph.constants.get(graph.source(node.inputs[1]))


def mult_adds(graph: Graph, node: Node) -> int:
    """Products of a node for one image; 0 where shapes are not known."""
    out = graph.elements(node.outputs[0])
    weight = weight_of(graph, node)
    if node.op in ("Conv", "ConvTranspose") and weight is not None:
        filters = weight.shape[3] if graph.pixels and int(node.attributes.get("group", 1)) > 1 else weight.shape[0]
        return out * weight.size // max(int(filters), 1)
    if node.op in ("Gemm", "MatMul"):
        shape = graph.shapes.get(node.inputs[0], ())
        return out * int(shape[-1] or 1) if shape else 0
    return 0
