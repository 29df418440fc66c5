"""What the channels of a float32 graph's values hold on images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..onnx_graph import INPUT_NAME
from .model import Model

__all__ = ["channel_maxima", "channel_means"]

BATCH: Final = 16
Reduction = Literal["ReduceMean", "ReduceMax"]


def channel_means(proto: Any, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The mean of each channel of every convolution's and product's input, (C,), over images and pixels.

    Args:
        proto: float32 `onnx.ModelProto` that takes pixels.
        images: prepared, uint8 (N, R, R, C).
    """
    inputs = {node.input[0] for node in Model(proto).nodes if node.op_type in ("Conv", "Gemm")}
    reduced = _reduced(proto, images, inputs, how="ReduceMean")
    return {name: np.asarray(each.mean(axis=0, dtype=np.float64), np.float32) for name, each in reduced.items()}


def channel_maxima(proto: Any, images: NDArray[np.uint8], values: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """The greatest number of each channel of `values`, (C,), over images and pixels; else as `channel_means`."""
    reduced = _reduced(proto, images, values, how="ReduceMax")
    return {name: np.asarray(each.max(axis=0), np.float32) for name, each in reduced.items()}


def _reduced(
    proto: Any, images: NDArray[np.uint8], values: Collection[str], *, how: Reduction
) -> dict[str, NDArray[np.float32]]:
    """(N, C) for each value."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    model = Model(proto)
    shapes = model.shapes()
    asked = model.proto()
    names = sorted(values)
    for name in names:
        axes = list(range(2, len(shapes[name])))
        made = f"{name}.reduced"
        op, options = (how, {"axes": axes, "keepdims": 0}) if axes else ("Identity", {})
        asked.graph.node.append(helper.make_node(op, [name], [made], name=made, **options))
        asked.graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, None))
    options_of_session = ort.SessionOptions()
    options_of_session.log_severity_level = 4
    session = ort.InferenceSession(asked.SerializeToString(), options_of_session, providers=["CPUExecutionProvider"])
    found = [
        session.run([f"{name}.reduced" for name in names], {INPUT_NAME: images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]
    return {name: np.concatenate([batch[i] for batch in found]) for i, name in enumerate(names)}
