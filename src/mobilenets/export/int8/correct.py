"""Biases that take back what rounded weights add on average."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..onnx_graph import INPUT_NAME
from .bytes import QUANTIZED
from .model import Model
from .weights import rounded, weight_steps

__all__ = ["channel_means", "corrected"]

BATCH: Final = 16


def corrected(proto: Any, means: Mapping[str, NDArray[np.float32]], *, floats: Collection[str] = ()) -> Any:
    """The graph with each bias less by the mean of what rounding its weights adds.

    Nagel et al. 2019 (arXiv:1906.04721, section 4.2): the error of the weights times the mean of the input. The means
    are those of calibration images, where the paper derives them from norms; what padding does at the borders is
    neglected.

    Args:
        proto: the graph as `prepared` makes it.
        means: of the inputs of its convolutions and products, from `channel_means`.
        floats: names of nodes that stay float32.
    """
    model = Model(proto)
    for node in model.nodes:
        if node.op_type not in ("Conv", "Gemm") or node.op_type not in QUANTIZED or node.name in floats:
            continue
        weight = model.constants[node.input[1]]
        error = rounded(weight, weight_steps(weight)).astype(np.float64) - weight
        error = error.reshape(*error.shape[:2], -1).sum(axis=2)
        mean = means[node.input[0]].astype(np.float64)
        added = error[:, 0] * mean if model.attributes(node).get("group", 1) > 1 else error @ mean
        model.constants[node.input[2]] = (model.constants[node.input[2]] - added).astype(np.float32)
    return model.proto()


def channel_means(proto: Any, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The mean of each channel of every convolution's and product's input, over images and pixels.

    Args:
        proto: float32 `onnx.ModelProto` that takes pixels.
        images: prepared, uint8 (N, R, R, C).
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper

    model = Model(proto)
    shapes = model.shapes()
    inputs = sorted({node.input[0] for node in model.nodes if node.op_type in ("Conv", "Gemm")})
    asked = model.proto()
    for name in inputs:
        axes = list(range(2, len(shapes[name])))
        made = f"{name}.mean"
        op, options = ("ReduceMean", {"axes": axes, "keepdims": 0}) if axes else ("Identity", {})
        asked.graph.node.append(helper.make_node(op, [name], [made], name=made, **options))
        asked.graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, None))
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    session = ort.InferenceSession(asked.SerializeToString(), session_options, providers=["CPUExecutionProvider"])
    total = [np.zeros(shapes[name][1], np.float64) for name in inputs]
    for start in range(0, len(images), BATCH):
        found = session.run([f"{name}.mean" for name in inputs], {INPUT_NAME: images[start : start + BATCH]})
        for sum_, each in zip(total, found, strict=True):
            sum_ += each.sum(axis=0, dtype=np.float64)
    return {name: (sum_ / len(images)).astype(np.float32) for name, sum_ in zip(inputs, total, strict=True)}
