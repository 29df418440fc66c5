"""Small ONNX models as bytes, for measuring a machine that has no package `onnx`: ONNX is an extra of the workshop.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["model", "node"]

IR_VERSION: Final = 8
OPSET: Final = 17
# TensorProto.DataType
TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}


def node(op: str, inputs: Sequence[str], output: str) -> bytes:
    """One node without attributes (NodeProto)."""
    made = b"".join(_text(1, name) for name in inputs)
    return made + _text(2, output) + _text(3, output) + _text(4, op)


def model(
    nodes: Sequence[bytes],
    *,
    given: tuple[str, str, Sequence[int]],
    made: tuple[str, str, Sequence[int]],
    constants: dict[str, NDArray[Any]],
) -> bytes:
    """A model (ModelProto).

    Args:
        nodes: in the order in which they can run.
        given: the input: name, numpy's name of its type, shape.
        made: the output, likewise.
        constants: by name.
    """
    graph = b"".join(_part(1, each) for each in nodes) + _text(2, "peak")
    graph += b"".join(_part(5, _tensor(name, array)) for name, array in constants.items())
    graph += _part(11, _value(*given)) + _part(12, _value(*made))
    return _number(1, IR_VERSION) + _part(8, _text(1, "") + _number(2, OPSET)) + _part(7, graph)


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    content = np.ascontiguousarray(array).tobytes()
    return dims + _number(2, TYPES[array.dtype.name]) + _text(8, name) + _part(9, content)


def _value(name: str, type_: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_part(1, _number(1, size)) for size in shape)
    tensor = _number(1, TYPES[type_]) + _part(2, dims)
    return _text(1, name) + _part(2, _part(1, tensor))


def _text(field: int, value: str) -> bytes:
    return _part(field, value.encode())


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
