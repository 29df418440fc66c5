"""Weights as bytes in an ONNX graph, nothing to calibrate: for products in float32, or of bytes found at each run."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .int8.model import Model
from .int8.weights import GREATEST, weight_steps

__all__ = ["with_byte_weights", "with_dynamic_bytes"]

FLOAT: Final = 1  # TensorProto.FLOAT
MIDDLE: Final = 128  # zero, of unsigned weights


def with_byte_weights(model: Any) -> Any:
    """A copy of a float32 ONNX model (`onnx.ModelProto`) whose weights are int8 with a step for each output channel.

    A Cast and a Mul make floats of them when the file is opened: engines fold both, so the speed is that of float32.
    ONNX Runtime's own weight-only quantiser (MatMulNBits) knows matrix products alone, and DequantizeLinear is not
    folded there but computed at each run.
    """
    made = Model(model)
    for node in [each for each in made.nodes if each.op_type in ("Conv", "Gemm")]:
        _fold_bytes(made, node)
    return made.proto()


def with_dynamic_bytes(model: Any) -> Any:
    """A copy of a float32 ONNX model whose matrices and convolutions multiply bytes, with ranges found at each run.

    The range of what a layer reads is looked for before it multiplies (DynamicQuantizeLinear: one step for the whole
    tensor), so nothing is calibrated, and each image costs one more pass for each layer. Weights are bytes with a step
    for each output channel. Depthwise convolutions, where that pass would cost more than the products, have weights in
    bytes and compute in float32.
    """
    made = Model(model)
    seen: dict[str, tuple[str, str, str]] = {}
    for node in [each for each in made.nodes if each.op_type in ("Conv", "Gemm")]:
        if made.is_depthwise(node):
            _fold_bytes(made, node)
            continue
        if node.input[0] not in seen:
            seen[node.input[0]] = _measured(made, node.input[0])
        _multiply_bytes(made, node, *seen[node.input[0]])
    return made.proto()


def _as_bytes(made: Model, name: str, *, in_pairs: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A constant (out, ...) as int8, and the step of each output channel, (out,); it is taken out of the graph."""
    weight = made.constants.pop(name)
    steps = weight_steps(weight, in_pairs=in_pairs)
    wide = steps.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / wide), -GREATEST, GREATEST).astype(np.int8), steps


def _fold_bytes(made: Model, node: Any) -> None:
    name = node.input[1]
    small, steps = _as_bytes(made, name, in_pairs=False)
    floats = made.node("Cast", [made.constant(f"{name}.bytes", small)], name=f"{name}.floats", to=FLOAT)
    wide = steps.reshape(-1, *[1] * (small.ndim - 1))
    made.node("Mul", [floats, made.constant(f"{name}.steps", wide)], name=name)


def _measured(made: Model, value: str) -> tuple[str, str, str]:
    """A value as bytes, uint8, their step and their zero."""
    names = (f"{value}.bytes", f"{value}.step", f"{value}.zero")
    made.node("DynamicQuantizeLinear", [value], name=names[0], more=names[1:])
    return names


def _multiply_bytes(made: Model, node: Any, given: str, step: str, zero: str) -> None:
    """In place of a convolution or a matrix product: the product of bytes, int32, times both steps, plus the bias."""
    name, weight, bias = node.name, node.input[1], node.input[2]
    # Products of unsigned weights, which convolutions have, are added in 32 bits everywhere (`int8.weights`).
    small, steps = _as_bytes(made, weight, in_pairs=node.op_type == "Gemm")
    attributes = made.attributes(node)
    made.nodes.remove(node)
    if node.op_type == "Conv":
        # ONNX Runtime convolves with unsigned weights only.
        unsigned = made.constant(f"{weight}.bytes", (small.astype(np.int16) + MIDDLE).astype(np.uint8))
        inputs = [given, unsigned, zero, made.constant(f"{weight}.zero", np.array(MIDDLE, np.uint8))]
        product = made.node("ConvInteger", inputs, name=f"{name}.product", **attributes)
        shape: tuple[int, ...] = (1, -1, 1, 1)
    else:
        matrix = made.constant(f"{weight}.bytes", np.ascontiguousarray(small.T))
        product = made.node("MatMulInteger", [given, matrix, zero], name=f"{name}.product")
        shape = (1, -1)
    floats = made.node("Cast", [product], name=f"{name}.floats", to=FLOAT)
    unit = made.node("Mul", [step, made.constant(f"{weight}.steps", steps.reshape(shape))], name=f"{name}.unit")
    scaled = made.node("Mul", [floats, unit], name=f"{name}.scaled")
    line = made.constant(f"{bias}.line", made.constants[bias].reshape(shape))
    made.node("Add", [scaled, line], name=name, output=node.output[0])
