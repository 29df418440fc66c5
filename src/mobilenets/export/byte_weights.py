"""Weights as bytes in an ONNX graph: a quarter of the file, nothing to calibrate, and the arithmetic of float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from .int8.model import Model
from .int8.weights import GREATEST, weight_steps

__all__ = ["with_byte_weights"]


def with_byte_weights(model: Any) -> Any:
    """A copy of a float32 ONNX model (`onnx.ModelProto`) whose weights are int8 with a step for each output channel.

    A Cast and a Mul make floats of them when the file is opened: engines fold both, so the speed is that of float32.
    ONNX Runtime's own weight-only quantiser (MatMulNBits) knows matrix products alone, and DequantizeLinear is not
    folded there but computed at each run.
    """
    made = Model(model)
    for node in [each for each in made.nodes if each.op_type in ("Conv", "Gemm")]:
        name = node.input[1]
        weight = made.constants.pop(name)
        steps = weight_steps(weight, in_pairs=False).reshape(-1, *[1] * (weight.ndim - 1))
        small = np.clip(np.rint(weight / steps), -GREATEST, GREATEST).astype(np.int8)
        floats = made.node("Cast", [made.constant(f"{name}.bytes", small)], name=f"{name}.floats", to=1)
        made.node("Mul", [floats, made.constant(f"{name}.steps", steps)], name=name)
    return made.proto()
