"""Values on their way from an ONNX graph into a LiteRT file, and how they lie in memory.

ONNX lays images out by planes (N, C, H, W), LiteRT by pixels (N, H, W, C). Every value here knows how it lies, and an
operator asks for what it needs, so nothing is transposed that does not have to be: of a network without attention, the
pixels that come in are the pixels that the first operator reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import SpecError
from ..half import as_half
from ..int8.ranges import Scale
from .file import Steps, TfliteFile

__all__ = ["Fixed", "Layout", "Translation", "Value", "lying"]

# How a value lies in memory, against ONNX's order of its dimensions. pixels: (N, C, H, W) as (N, H, W, C). rows:
# (N, heads, width, places) as (N, heads, places, width). plain: as ONNX has it.
Layout = Literal["pixels", "rows", "plain"]


@dataclass(frozen=True)
class Value:
    """A tensor of the file, and how ONNX sees it; `shape` is ONNX's, without the batch."""

    tensor: int
    shape: tuple[int, ...]
    layout: Layout
    scale: Scale | None = None  # what its bytes, int8, stand for in the file; None: it is no such value
    times: float = 1.0  # how many times greater its numbers are in the file than in ONNX; see `bytes.py`


@dataclass(frozen=True)
class Fixed:
    """Whole numbers of weights (int8) or biases (int32) and their steps, one for each output channel."""

    numbers: NDArray[Any]
    steps: NDArray[np.float32]


class Translation:
    """A graph in the middle of being translated."""

    def __init__(self, model: Any, *, half: bool) -> None:
        from onnx import numpy_helper, shape_inference

        graph = shape_inference.infer_shapes(model).graph
        self.file = TfliteFile()
        self.half = half
        self.nodes = list(graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.shapes = {
            info.name: tuple(side.dim_value for side in info.type.tensor_type.shape.dim)[1:]
            for info in (*graph.input, *graph.value_info, *graph.output)
        }
        self.values: dict[str, Value] = {}
        self.in_bytes: dict[str, Value] = {}  # what a DequantizeLinear reads, by the name of what it makes
        self.fixed: dict[str, Fixed] = {}  # likewise of constants
        self.done: set[str] = set()  # nodes that an earlier operator has taken in
        self.makers = {name: node for node in self.nodes for name in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def only_user(self, name: str, *kinds: str) -> Any | None:
        """The node that reads a value, if it is the only one and of one of these kinds."""
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op_type in kinds else None

    def users(self, name: str) -> list[Any]:
        """The nodes that read a value."""
        return self._users.get(name, [])

    def take_in(self, node: Any) -> str:
        """Mark a node as done by the operator before it; returns what it would have computed."""
        self.done.add(node.output[0])
        return str(node.output[0])

    def stored(self, name: str, shape: tuple[int, ...], layout: Layout) -> Value:
        """A new value that is computed, in float32."""
        return Value(tensor=self.file.computed(name, lying(shape, layout)), shape=shape, layout=layout)

    def stored_bytes(
        self, name: str, shape: tuple[int, ...], layout: Layout, scale: Scale, *, times: float = 1.0
    ) -> Value:
        """A new value that is computed, in int8; `scale` is the file's, `times` that of ONNX's numbers."""
        steps = Steps(np.array([scale.step], np.float32), zero=scale.zero)
        tensor = self.file.computed(name, lying(shape, layout), type="INT8", steps=steps)
        return Value(tensor=tensor, shape=shape, layout=layout, scale=scale, times=times)

    def weight(self, name: str, value: NDArray[Any]) -> int:
        """A filter or matrix: float32, or float16 with the operator that every engine folds when it opens the file."""
        value = np.ascontiguousarray(value, np.float32)
        if not self.half:
            return self.file.constant(name, value)
        kept = self.file.constant(f"{name}.half", as_half(name, value))
        whole = self.file.fixed(name, value.shape)
        return self.file.add("DEQUANTIZE", [kept], whole, table="DequantizeOptions")

    def as_pixels(self, name: str) -> Value:
        """A value of ONNX's (N, C, H, W), lying by pixels."""
        value = self.values[name]
        if value.layout == "pixels":
            return value
        plain = self.as_plain(name)
        return self.transposed(f"{name}.pixels", plain, (0, 2, 3, 1), replace(plain, layout="pixels"))

    def as_plain(self, name: str) -> Value:
        """A value lying as ONNX has it."""
        value = self.values[name]
        if value.layout == "plain":
            return value
        order = (0, 3, 1, 2) if value.layout == "pixels" else (0, 1, 3, 2)
        return self.transposed(f"{name}.plain", value, order, replace(value, layout="plain"))

    def transposed(self, name: str, value: Value, order: tuple[int, ...], becomes: Value) -> Value:
        """A TRANSPOSE of how a value lies; `becomes` tells shape and layout of the outcome."""
        made = self.stored(name, becomes.shape, becomes.layout)
        return self._moved("TRANSPOSE", value, made, np.array(order, np.int32), table="TransposeOptions")

    def reshaped(self, name: str, value: Value, becomes: Value) -> Value:
        """A RESHAPE: the memory stays as it is."""
        made = self.stored(name, becomes.shape, becomes.layout)
        shape = [-1, *lying(becomes.shape, becomes.layout)]
        return self._moved("RESHAPE", value, made, np.array(shape, np.int32), table="ReshapeOptions", newShape=shape)

    def _moved(self, kind: str, value: Value, made: Value, how: NDArray[np.int32], **options: Any) -> Value:
        how_tensor = self.file.constant(f"{kind.lower()}.{made.tensor}", how)
        self.file.add(kind, [value.tensor, how_tensor], made.tensor, **options)
        return made

    def operand(self, name: str, layout: Layout) -> int:
        """One side of a sum or product: a value lying so, or a constant that fits it."""
        if name in self.constants:
            return self.file.constant(name, np.asarray(self.constants[name], np.float32))
        return (self.as_pixels(name) if layout == "pixels" else self.as_plain(name)).tensor


def lying(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The sides of a value in memory, without the batch."""
    if layout == "plain":
        return shape
    if layout == "pixels":
        return (*shape[1:], shape[0])
    if layout == "rows":
        return (shape[0], shape[2], shape[1])
    raise SpecError(f"layout is {layout!r}", wanted="pixels, rows or plain", do="use one")
