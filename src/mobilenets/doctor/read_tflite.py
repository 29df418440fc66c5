"""LiteRT files -> `Graph`, in ONNX's words."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError
from .graph import Graph, Node, Port

__all__ = ["graph_of_tflite"]

IDENTIFIER: Final = b"TFL3"
MOST_TEXT: Final = 1_000_000  # bytes of label names
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "UINT8": "uint8", "INT64": "int64", "INT8": "int8"}
)
OPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CONV_2D": "Conv",
        "DEPTHWISE_CONV_2D": "Conv",
        "FULLY_CONNECTED": "Gemm",
        "BATCH_MATMUL": "MatMul",
        "ADD": "Add",
        "SUB": "Sub",
        "MUL": "Mul",
        "DIV": "Div",
        "MINIMUM": "Min",
        "MAXIMUM": "Max",
        "RELU": "Relu",
        "RELU6": "Clip",
        "RELU_0_TO_1": "Clip",
        "HARD_SWISH": "HardSwish",
        "LOGISTIC": "Sigmoid",
        "SOFTMAX": "Softmax",
        "LOG_SOFTMAX": "LogSoftmax",
        "PAD": "Pad",
        "PADV2": "Pad",
        "TRANSPOSE": "Transpose",
        "RESHAPE": "Reshape",
        "SQUEEZE": "Squeeze",
        "SHAPE": "Shape",
        "CAST": "Cast",
        "QUANTIZE": "Cast",  # from bytes to bytes; the ranges are told around it
        "DEQUANTIZE": "Cast",
    }
)
# What stands behind an operator in its own options.
FUSED: Final[Mapping[int, tuple[str, tuple[float, ...]]]] = MappingProxyType(
    {1: ("Relu", ()), 2: ("Clip", (-1.0, 1.0)), 3: ("Clip", (0.0, 6.0))}
)
CLIPS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType({"RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0)})
SAME: Final = 0  # of tflite's Padding


def graph_of_tflite(path: Path) -> Graph:
    """The first subgraph of a file, which is the one that runs.

    Raises:
        MissingExtraError: ai-edge-litert, which brings the file's schema, is not installed.
        FileFormatError: not a LiteRT model, or torn.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise MissingExtraError("ai_edge_litert", extra="litert") from error
    content = path.read_bytes()
    wanted, do = "a whole LiteRT model", "check the path, or fetch the file again"
    if content[4:8] != IDENTIFIER:
        raise FileFormatError(f"{path} is no LiteRT file", wanted=wanted, do=do)
    try:
        return _Reading(schema, schema.ModelT.InitFromPackedBuf(content, 0), _labels(content)).graph()
    except Exception as error:  # what reading a torn flatbuffer may raise is anything from struct.error to MemoryError
        raise FileFormatError(f"{path} breaks off or is damaged: {error!r}", wanted=wanted, do=do) from error


def _labels(content: bytes) -> dict[str, str]:
    """Class names, one a line, where TFLite's metadata writer has put them: a text file in a zip behind the model."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            texts = [
                each for each in packed.infolist() if each.filename.endswith(".txt") and each.file_size < MOST_TEXT
            ]
            return {"labels": packed.read(texts[0]).decode("utf-8", "replace")} if texts else {}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        zlib.error,
    ):  # none, or a torn one
        return {}


class _Reading:
    def __init__(self, schema: Any, model: Any, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata
        self._model, self._main = model, model.subgraphs[0]
        self._ops = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        self._types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        self._names: dict[int, str] = {}
        taken: set[str] = set()
        for index, tensor in enumerate(self._main.tensors):
            name = (tensor.name or b"").decode("utf-8", "replace") or f"tensor {index}"
            self._names[index] = name if name not in taken else f"{name} ({index})"
            taken.add(self._names[index])
        self._reads = dict(self._names)  # what operators read of a tensor: its real numbers
        self._nodes: list[Node] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}

    def graph(self) -> Graph:
        for index in range(len(self._main.tensors)):
            self._tensor(index)
        for index in self._main.inputs:
            self._bytes(int(index), computed=False)
        for index, operator in enumerate(self._main.operators):
            self._operator(index, operator)
        return Graph(
            format="tflite",
            nodes=tuple(self._nodes),
            constants=self._constants,
            inputs=tuple(self._port(int(index)) for index in self._main.inputs),
            outputs=tuple(self._port(int(index)) for index in self._main.outputs),
            shapes=self._shapes,
            pixels=True,
            metadata=self._metadata,
        )

    def _tensor(self, index: int) -> None:
        tensor, name = self._main.tensors[index], self._names[index]
        shape = tuple(int(side) for side in (tensor.shape if tensor.shape is not None else ()))
        free = tensor.shapeSignature
        self._shapes[name] = tuple(
            None if free is not None and place < len(free) and free[place] < 0 else side
            for place, side in enumerate(shape)
        )
        data = self._model.buffers[tensor.buffer].data
        kind = TYPES.get(self._types.get(tensor.type, ""))
        if data is not None and len(data) and kind is not None:
            self._constants[name] = np.frombuffer(bytes(bytearray(data)), kind).reshape(shape)
            self._bytes(index, computed=False)

    def _bytes(self, index: int, *, computed: bool) -> None:
        """What is kept as bytes gets its scale, in ONNX's way; what is computed is quantised first."""
        tensor, name = self._main.tensors[index], self._names[index]
        scales = None if tensor.quantization is None else tensor.quantization.scale
        kind = TYPES.get(self._types.get(tensor.type, ""))
        if scales is None or not len(scales) or kind not in ("int8", "uint8"):
            return
        zeros = tensor.quantization.zeroPoint
        zero = np.zeros(len(scales)) if zeros is None else np.asarray(zeros)
        single = len(scales) == 1
        for part, values in (("scale", np.asarray(scales, np.float32)), ("zero", zero.astype(kind))):
            self._constants[f"{name}/{part}"] = values[0] if single else values
        around = (f"{name}/scale", f"{name}/zero")
        if computed:
            self._nodes.append(Node(f"{name}/bytes", "QuantizeLinear", (f"{name}/real", *around), (name,)))
        self._nodes.append(Node(f"{name}/floats", "DequantizeLinear", (name, *around), (f"{name}/read",)))
        for value in (f"{name}/real", f"{name}/read"):
            self._shapes[value] = self._shapes[name]
        self._reads[index] = f"{name}/read"

    def _operator(self, index: int, operator: Any) -> None:
        code = self._model.operatorCodes[operator.opcodeIndex]
        kind = self._ops.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
        inputs = [self._reads[int(i)] if i >= 0 else "" for i in operator.inputs]
        outputs = [int(i) for i in operator.outputs]
        at = self._names[outputs[0]] if outputs else f"{kind} {index}"
        options = operator.builtinOptions
        attributes: dict[str, Any] = {}
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            attributes = self._convolution(kind, options, operator)
        if kind == "TRANSPOSE" and inputs[1] in self._constants:
            attributes["perm"] = self._constants[inputs[1]].reshape(-1).tolist()
        if kind in ("PAD", "PADV2") and inputs[1] in self._constants:
            # Pairs of before and after here; ONNX has all that is before first.
            attributes["pads"] = self._constants[inputs[1]].reshape(-1, 2).T.reshape(-1).tolist()
        if kind in CLIPS:
            inputs += self._bounds(at, CLIPS[kind])
        made = [f"{self._names[i]}/real" if self._is_bytes(i) else self._names[i] for i in outputs]
        fused = FUSED.get(int(getattr(options, "fusedActivationFunction", 0) or 0))
        if fused is None:
            self._nodes.append(Node(at, OPS.get(kind, kind), tuple(inputs), tuple(made), attributes))
        else:
            act, bounds = fused
            between = f"{at}/before"
            self._shapes[between] = self._shapes.get(self._names[outputs[0]], ())
            self._nodes.append(Node(at, OPS.get(kind, kind), tuple(inputs), (between,), attributes))
            after = (between, *self._bounds(at, bounds)) if bounds else (between,)
            self._nodes.append(Node(f"{at}/{act}", act, after, tuple(made)))
        for each in outputs:
            self._bytes(each, computed=True)

    def _convolution(self, kind: str, options: Any, operator: Any) -> dict[str, Any]:
        weight = self._shapes.get(self._names[int(operator.inputs[1])], ())
        return {
            "strides": [int(options.strideH), int(options.strideW)],
            "dilations": [int(options.dilationHFactor), int(options.dilationWFactor)],
            "kernel_shape": [int(side or 1) for side in weight[1:3]],
            "auto_pad": "SAME_UPPER" if options.padding == SAME else "VALID",
            "group": int(weight[3] or 1) if kind == "DEPTHWISE_CONV_2D" and len(weight) == 4 else 1,
        }

    def _bounds(self, at: str, values: tuple[float, ...]) -> list[str]:
        names = [f"{at}/low", f"{at}/high"]
        for name, value in zip(names, values, strict=True):
            self._constants[name] = np.array(value, np.float32)
        return names

    def _is_bytes(self, index: int) -> bool:
        tensor = self._main.tensors[index]
        scales = None if tensor.quantization is None else tensor.quantization.scale
        return scales is not None and len(scales) > 0 and self._types.get(tensor.type) in ("INT8", "UINT8")

    def _port(self, index: int) -> Port:
        kind = TYPES.get(self._types.get(self._main.tensors[index].type, ""), "other")
        return Port(self._names[index], kind, self._shapes[self._names[index]])
