"""Where operators find what their tensors are, and leave what they make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError
from .file import FlatGraph, FlatOperator
from .values import Image, Other, Turned, Value

__all__ = ["AS_STORED", "Floats", "Reader", "Scene"]

Floats: TypeAlias = NDArray[np.float64]
AS_STORED: Final = (0, 1, 2, 3)  # (N, H, W, C)
CHANNELS_FIRST: Final = (0, 3, 1, 2)


class Scene:
    """The values of tensors as far as operators have run."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self._values: dict[int, Value] = {}
        self._constants: dict[int, Floats] = {}
        if len(graph.inputs) != 1:
            raise FileFormatError(
                f"the graph has {len(graph.inputs)} inputs",
                wanted="one, an image",
                do="give a classifier or a feature extractor of images",
            )
        tensor = graph.tensors[graph.inputs[0]]
        if len(tensor.shape) != 4 or tensor.free or min(tensor.shape) < 1:
            raise FileFormatError(
                f"the input {tensor.name!r} has shape {tensor.shape}"
                + (" with sides left free" if tensor.free else ""),
                wanted="images of one size, (N, H, W, C) or (N, C, H, W)",
                do="convert the network again with the sides fixed that it was trained for",
            )
        _, first, second, third = tensor.shape
        planes = first in (1, 3) and third not in (1, 3)
        self.image = Image((second, third, first) if planes else (first, second, third))
        self._values[graph.inputs[0]] = Turned(-1, self.image, CHANNELS_FIRST) if planes else self.image

    def value(self, index: int) -> Value:
        """The value of a tensor."""
        if index not in self._values:
            name = self.graph.tensors[index].name if index >= 0 else "left away"
            return Other(-1, f"the tensor {name!r}", (), "nothing computes it before it is used")
        return self._values[index]

    def constant(self, index: int) -> Floats | None:
        """The numbers of a constant tensor, also behind a dequantisation; None where it is computed."""
        if index < 0:
            return None
        if index not in self._constants:
            real = self.graph.tensors[index].real()
            if real is None:
                return None
            self._constants[index] = real
        return self._constants[index]

    def other(self, operator: FlatOperator, why: str = "") -> Other:
        """An operator that is not understood, with whatever it is made of."""
        of = tuple(self.value(i) for i in operator.inputs if i >= 0 and self.constant(i) is None)
        shape = self.graph.tensors[operator.outputs[0]].shape
        size = (shape[1], shape[2], shape[3]) if len(shape) == 4 else (0, 0, 0)
        return Other(operator.index, operator.kind, of, why, size)

    def put(self, operator: FlatOperator, value: Value) -> None:
        """Every output of an operator is `value`."""
        for index in operator.outputs:
            self._values[index] = value

    def put_constant(self, index: int, constant: Floats) -> None:
        """A tensor is these numbers."""
        self._constants[index] = constant


Reader: TypeAlias = Callable[[Scene, FlatOperator], Value | None]  # None: not understood
