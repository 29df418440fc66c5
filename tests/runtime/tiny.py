"""Tiny artifacts, made without torch: the mean of each channel, times a matrix."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilenets.files import write_json
from mobilenets.records import Artifact, Preprocess, to_json

RED_GREEN_BLUE = np.eye(3, dtype=np.float32)  # the class is the channel that is brightest on average


def make_artifact(
    folder: Path,
    *,
    matrix: NDArray[np.float32] = RED_GREEN_BLUE,
    side: int = 8,
    labels: tuple[str, ...] | None = None,
    input_type: int = TensorProto.UINT8,
) -> Path:
    """Write the model `mean(pixels / 255) @ matrix`, with matrix (channels, classes), and its record."""
    channels, classes = matrix.shape
    nodes = [
        helper.make_node("Cast", ["image"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", input_type, ["n", side, side, channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [
            numpy_helper.from_array(np.array(255, dtype=np.float32), "scale"),
            numpy_helper.from_array(matrix.astype(np.float32), "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return write_artifact(
        folder, model.SerializeToString(), labels=labels or tuple(f"class {i}" for i in range(classes)), side=side
    )


def write_artifact(folder: Path, content: bytes, *, labels: tuple[str, ...], side: int = 8) -> Path:
    """A folder with any bytes as its model, and a record that fits them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    artifact = Artifact(
        file="model.onnx",
        format="onnx",
        precision="fp32",
        task="classify",
        labels=labels,
        preprocess=Preprocess(resolution=side),
        input_name="image",
        output_name="logits",
        spec_name="tiny",
        spec_digest="0" * 16,
        bundle_digest="0" * 16,
        parameters=9,
        mult_adds=9,
        size_mb=len(content) / 1e6,
        file_sha256=hashlib.sha256(content).hexdigest(),
    )
    write_json(folder / "artifact.json", to_json(artifact))
    return folder
