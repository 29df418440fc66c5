"""Weights as float16 in an ONNX graph: half the file, and the arithmetic stays float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError

__all__ = ["as_half", "with_half_weights"]

LEAST_RANK: Final = 2  # filters and matrices; biases are few, and losing a thousandth of them costs more than it saves
GREATEST: Final = 65504.0  # of float16


def with_half_weights(model: Any) -> Any:
    """A copy of a float32 ONNX model (`onnx.ModelProto`) whose weights are float16, each followed by a Cast.

    Engines fold those casts when they open the file, so the speed is that of float32. A graph that is float16
    throughout would run so on few processors, and ONNX Runtime's CPU kernels for it exist on ARM only.

    Raises:
        FileFormatError: a weight is beyond float16's greatest number, 65504.
    """
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    made = ModelProto()
    made.CopyFrom(model)
    casts = []
    for tensor in made.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < LEAST_RANK:
            continue
        name, value = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(as_half(name, value), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def as_half(name: str, value: NDArray[np.float32]) -> NDArray[np.float16]:
    """Weights as float16.

    Raises:
        FileFormatError: one of them is beyond float16's greatest number, 65504.
    """
    greatest = float(np.abs(value).max())
    if greatest > GREATEST:
        raise FileFormatError(
            f"{name} has a weight of {greatest:g}", wanted="at most 65504 for float16", do="export as fp32"
        )
    return value.astype(np.float16)
