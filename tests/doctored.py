"""Model files with and without faults, written operator by operator; no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mobilenets.files import write_json
from mobilenets.records import Artifact, Precision, Preprocess, to_json

LABELS = tuple("abcdefgh")


class Draft:
    """An ONNX graph in the making; values by name. Weights are drawn, always the same ones."""

    def __init__(self, *, side: int = 16, shape: list[Any] | None = None, type: int = TensorProto.FLOAT) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.rng = np.random.default_rng(7)
        self.input = helper.make_tensor_value_info("image", type, shape or [1, 3, side, side])

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        made = [name, *(f"{name}:{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name, domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(
        self,
        value: str,
        width: int,
        out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pads: tuple[int, int] | None = None,
        group: int = 1,
        weight: str | None = None,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        filters = self.rng.normal(0, 0.5, (out, width // group, kernel, kernel))
        before, after = pads if pads is not None else (kernel // 2, kernel // 2)
        given = [value, weight or self.constant(filters)]
        given += [self.constant(self.rng.normal(0, 0.1, out))] if bias else []
        if "auto_pad" not in attributes:
            attributes["pads"] = [before, before, after, after]
        return self.add("Conv", *given, strides=[stride] * 2, group=group, **attributes)

    def head(self, value: str, width: int, classes: int = len(LABELS)) -> str:
        value = self.add("Flatten", self.add("GlobalAveragePool", value))
        matrix, bias = self.constant(self.rng.normal(0, 1, (classes, width))), self.constant(np.zeros(classes))
        return self.add("Gemm", value, matrix, bias, transB=1)

    def bytes_of(self, value: str, scale: float = 0.05, zero: int = 128, dtype: Any = np.uint8) -> str:
        """A pair of QuantizeLinear and DequantizeLinear."""
        around = (self.constant(scale), self.constant(zero, dtype))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, *around), *around)

    def byte_weight(self, filters: np.ndarray, *, per_channel: bool = True) -> str:
        """Filters as int8 with a scale per channel, or one for all."""
        largest = np.abs(filters).reshape(len(filters), -1).max(axis=1) if per_channel else np.abs(filters).max()
        scale = np.asarray(largest / 127, np.float32)
        steps = scale.reshape(-1, *[1] * (filters.ndim - 1)) if per_channel else scale
        kept = self.constant(np.clip(np.round(filters / steps), -127, 127), np.int8)
        zero = self.constant(np.zeros_like(scale), np.int8)
        axis = {"axis": 0} if per_channel else {}
        return self.add("DequantizeLinear", kept, self.constant(scale), zero, **axis)

    def model(self, output: str, *, classes: int | None = len(LABELS), opset: int = 17, named: bool = True) -> Any:
        domains = {node.domain for node in self.nodes} - {""}
        graph = helper.make_graph(
            self.nodes,
            "draft",
            [self.input],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", classes])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        if named:
            names = ", ".join(f"label {index}" for index in range(classes or 0))
            model.metadata_props.append(onnx.StringStringEntryProto(key="labels", value=names))
        return model

    def write(self, path: Path, output: str, **options: Any) -> Path:
        onnx.save(self.model(output, **options), path)
        return path


def artifact_of(
    folder: Path,
    content: bytes,
    *,
    labels: tuple[str, ...] = LABELS,
    preprocess: Preprocess | None = None,
    input_name: str = "image",
    output_name: str = "logits",
    precision: Precision = "fp32",
    spec: tuple[str, str] = ("draft", "0" * 16),
) -> Path:
    """A folder with a model and a record that fits it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    record = Artifact(
        file="model.onnx",
        format="onnx",
        precision=precision,
        task="classify",
        labels=labels,
        preprocess=preprocess or Preprocess(resolution=16),
        input_name=input_name,
        output_name=output_name,
        spec_name=spec[0],
        spec_digest=spec[1],
        bundle_digest="0" * 16,
        parameters=1,
        mult_adds=1,
        size_mb=len(content) / 1e6,
        file_sha256=hashlib.sha256(content).hexdigest(),
    )
    write_json(folder / "artifact.json", to_json(record))
    return folder


# Ten classes: five levels of red, two of blue, so near to each other that every usual way to feed them matters.
COLOURS = {f"red {r} blue {b}": (r, 110, b) for r in (20, 80, 128, 176, 235) for b in (60, 200)}


def colours_folder(root: Path, *, each: int = 8, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """One folder per colour, with noise on every pixel."""
    rng = np.random.default_rng(1)
    for label in names:
        colour = COLOURS[label]
        (root / label).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + rng.normal(0, 12, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def nearest_colour(
    mean: tuple[float, ...], std: tuple[float, ...], *, order: str = "RGB", shift: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (classes, 3) and bias of the nearest of the colours, for numbers normalised so.

    |x - c|^2 is smallest where 2 c x - |c|^2 is largest. With a shift, class k is the output k + shift of one more.
    """
    centres = (np.array([COLOURS[name] for name in sorted(COLOURS)]) / 255 - mean) / std
    centres = centres[:, ::-1] if order == "BGR" else centres
    matrix, bias = 2 * centres, -(centres**2).sum(axis=1)
    if shift:
        matrix = np.concatenate([np.zeros((1, 3)), matrix]) if shift > 0 else np.concatenate([matrix, np.zeros((1, 3))])
        bias = np.concatenate([[-1e4], bias]) if shift > 0 else np.concatenate([bias, [-1e4]])
    scale = np.abs(matrix).max()
    return (matrix / scale).astype(np.float32), (bias / scale).astype(np.float32)


def colour_model(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    order: str = "RGB",
    inside: Preprocess | None = None,
    shift: int = 0,
) -> Any:
    """The nearest colour as a network that was trained with this mean, std and order.

    Args:
        mean, std, order: what its weights expect.
        inside: what the file does with bytes, as ours do; None: it takes floats by planes.
        shift: see `nearest_colour`.
    """
    matrix, bias = nearest_colour(mean, std, order=order, shift=shift)
    if inside is None:
        draft = Draft(side=16)
        value = "image"
    else:
        draft = Draft(shape=["n", 16, 16, 3], type=TensorProto.UINT8)
        value = draft.add("Cast", draft.add("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
        sides = (1, 3, 1, 1)
        scale = 1 / (255 * np.array(inside.std))
        value = draft.add("Mul", value, draft.constant(scale.reshape(sides)))
        value = draft.add("Add", value, draft.constant((-np.array(inside.mean) / inside.std).reshape(sides)))
    eye = draft.constant(np.eye(3).reshape(3, 3, 1, 1))
    value = draft.conv(value, 3, 3, kernel=1, weight=eye, bias=False)
    value = draft.add("Flatten", draft.add("GlobalAveragePool", value))
    value = draft.add("Gemm", value, draft.constant(matrix), draft.constant(bias), transB=1)
    return draft.model(value, classes=len(bias), named=False)
