"""The flatbuffer of a `.tflite` file -> plain records. What a hostile or torn file can do ends here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, MissingExtraError

__all__ = ["FlatGraph", "FlatOperator", "FlatTensor", "parse", "refuse_file"]

IDENTIFIER: Final = b"TFL3"
IDENTIFIER_AT: Final = 4
# No MobileNet comes near these. They keep a file whose counts are random from costing minutes.
MOST_TENSORS: Final = 5_000
MOST_OPERANDS: Final = 64
MOST_AXES: Final = 8
BROKEN: Final = (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError, UnicodeError)

ElementType = Literal["float32", "float16", "int8", "uint8", "int4", "int16", "int32", "int64", "other"]
# tflite's TensorType
ELEMENT_TYPES: Final[Mapping[int, ElementType]] = MappingProxyType(
    {
        0: "float32",
        1: "float16",
        2: "int32",
        3: "uint8",
        4: "int64",
        7: "int16",
        9: "int8",
        17: "int4",
    }
)
FUSED: Final[Mapping[int, str]] = MappingProxyType(
    {0: "none", 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: "tanh", 5: "sign_bit"}  # tflite's ActivationFunctionType
)


@dataclass(frozen=True, eq=False)
class FlatTensor:
    """One tensor. `scale` and `zero_point` have one number, or one per index of `axis`; empty: not quantised."""

    name: str
    shape: tuple[int, ...]  # as stored; a free side is 1 here
    free: bool  # a side other than the first is settled only when the file runs
    type: ElementType
    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    axis: int
    constant: NDArray[Any] | None  # in its own type; None where it is computed

    def real(self) -> NDArray[np.float64] | None:
        """The constant as numbers, scale * (q - zero_point); None where there is none."""
        if self.constant is None:
            return None
        values = self.constant.astype(np.float64)
        if self.scale.size == 0:
            return values
        if self.scale.size == 1:
            return np.asarray(self.scale[0] * (values - self.zero_point[0]), np.float64)
        sides = [1] * values.ndim
        sides[self.axis] = -1
        return self.scale.reshape(sides) * (values - self.zero_point.reshape(sides))


@dataclass(frozen=True, eq=False)
class FlatOperator:
    """One operator. Tensors by index; -1 is an input that is left away."""

    index: int
    kind: str  # "CONV_2D" ...; "custom NAME"; "operator 300" where this reader has no name for it
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]  # plain numbers and words; absent ones have the file format's defaults


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """The first subgraph of a file, which is the one that runs."""

    tensors: tuple[FlatTensor, ...]
    operators: tuple[FlatOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: bytes | None  # the flatbuffer "TFLITE_METADATA", if there is one
    description: str


def refuse_file(got: str) -> FileFormatError:
    """The error for a file that is not a whole TFLite model."""
    return FileFormatError(got, wanted="a whole TensorFlow Lite model", do="check the path, or fetch the file again")


def parse(content: bytes) -> FlatGraph:
    """Read a model's main graph.

    Raises:
        FileFormatError: not TFLite, torn, or with indexes that point nowhere.
        MissingExtraError: the package tflite is not installed.
    """
    try:
        import tflite
    except ImportError as error:
        raise MissingExtraError("tflite", extra="train") from error
    if content[IDENTIFIER_AT : IDENTIFIER_AT + 4] != IDENTIFIER:
        shown = content[IDENTIFIER_AT : IDENTIFIER_AT + 4]
        raise refuse_file(f"the file's identifier is {shown!r}, not {IDENTIFIER!r}")
    try:
        return _Reader(tflite, content).graph()
    except FileFormatError:
        raise
    except BROKEN as error:
        raise refuse_file(f"the file breaks off or is damaged ({type(error).__name__}: {error})") from error


class _Reader:
    """Accessors of the package tflite -> our records."""

    def __init__(self, tflite: Any, content: bytes) -> None:
        self._tflite = tflite
        self._content = content
        self._model = tflite.Model.GetRootAs(content, 0)
        self._kinds = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}

    def graph(self) -> FlatGraph:
        if self._model.SubgraphsLength() < 1:
            raise refuse_file("the file holds no graph")
        graph = self._model.Subgraphs(0)
        counts = {"tensors": graph.TensorsLength(), "operators": graph.OperatorsLength()}
        for what, count in counts.items():
            if not 0 < count <= MOST_TENSORS:
                raise refuse_file(f"the graph has {count:,} {what}")
        tensors = tuple(self._tensor(graph.Tensors(i)) for i in range(counts["tensors"]))
        operators = tuple(self._operator(i, graph.Operators(i), len(tensors)) for i in range(counts["operators"]))
        return FlatGraph(
            tensors=tensors,
            operators=operators,
            inputs=_indexes(graph.InputsLength, graph.Inputs, len(tensors)),
            outputs=_indexes(graph.OutputsLength, graph.Outputs, len(tensors)),
            metadata=self._metadata(),
            description=(self._model.Description() or b"").decode("utf-8", errors="replace"),
        )

    def _tensor(self, tensor: Any) -> FlatTensor:
        shape = _numbers(tensor.ShapeLength, tensor.Shape, most=MOST_AXES)
        signature = _numbers(tensor.ShapeSignatureLength, tensor.ShapeSignature, most=MOST_AXES)
        quantised = tensor.Quantization()
        scale = zero_point = np.zeros(0)
        axis = 0
        if quantised is not None and quantised.ScaleLength() > 0:
            scale = np.asarray(quantised.ScaleAsNumpy(), np.float64)
            given = quantised.ZeroPointLength()
            zero_point = np.asarray(quantised.ZeroPointAsNumpy(), np.float64) if given else np.zeros(1)
            axis = quantised.QuantizedDimension()
            if zero_point.size == 1:
                zero_point = np.repeat(zero_point, scale.size)
            fits = scale.size == 1 or (0 <= axis < len(shape) and shape[axis] == scale.size)
            if not fits or zero_point.size != scale.size or not np.isfinite(scale).all():
                raise refuse_file(f"a tensor of shape {shape} has {scale.size} scales along axis {axis}")
        kind = ELEMENT_TYPES.get(tensor.Type(), "other")
        return FlatTensor(
            name=(tensor.Name() or b"").decode("utf-8", errors="replace"),
            shape=shape,
            free=any(side < 0 for side in signature[1:]),
            type=kind,
            scale=scale,
            zero_point=zero_point,
            axis=axis,
            constant=self._constant(tensor.Buffer(), kind, shape),
        )

    def _constant(self, index: int, kind: ElementType, shape: tuple[int, ...]) -> NDArray[Any] | None:
        buffer = self._model.Buffers(index) if 0 <= index < self._model.BuffersLength() else None
        if buffer is None:
            raise refuse_file(f"a tensor of shape {shape} is in buffer {index}, which is not there")
        content = self._bytes(buffer)
        if not content or kind == "other":
            return None
        count = int(np.prod(shape, dtype=object))
        if kind == "int4":  # two to a byte, the first in the low half
            halves = np.frombuffer(content, np.uint8)
            values = np.stack([halves & 15, halves >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
            values = np.where(values > 7, values - 16, values)
        else:
            values = np.frombuffer(content, np.dtype(kind).newbyteorder("<"))
        if values.size != count:
            raise refuse_file(f"a tensor of shape {shape} and type {kind} has {len(content):,} bytes")
        return values.reshape(shape)

    def _bytes(self, buffer: Any) -> bytes:
        if buffer.DataLength() > 0:
            return bytes(buffer.DataAsNumpy())
        offset, size = buffer.Offset(), buffer.Size()  # files above 2 GB keep their weights behind the flatbuffer
        return self._content[offset : offset + size] if offset > 1 and size > 0 else b""

    def _operator(self, index: int, operator: Any, tensors: int) -> FlatOperator:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        if operator.OpcodeIndex() >= self._model.OperatorCodesLength():
            raise refuse_file(f"operator {index} is of a kind that the file does not list")
        # Kinds above 126 do not fit the older field, which then holds 127.
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        kind = self._kinds.get(number, f"operator {number}")
        if kind == "CUSTOM":
            kind = "custom " + (code.CustomCode() or b"").decode("utf-8", errors="replace")
        return FlatOperator(
            index=index,
            kind=kind,
            inputs=_indexes(operator.InputsLength, operator.Inputs, tensors, optional=True),
            outputs=_indexes(operator.OutputsLength, operator.Outputs, tensors),
            options=MappingProxyType(self._options(kind, operator)),
        )

    def _options(self, kind: str, operator: Any) -> dict[str, Any]:
        if kind not in OPTIONS:
            return {}
        name, fields = OPTIONS[kind]
        table = operator.BuiltinOptions()
        if table is None or operator.BuiltinOptionsType() != getattr(self._tflite.BuiltinOptions, name):
            return {}
        options = getattr(self._tflite, name)()
        options.Init(table.Bytes, table.Pos)
        found: dict[str, Any] = {field: getattr(options, accessor)() for field, accessor in fields.items()}
        if "act" in found:
            found["act"] = FUSED.get(found["act"], f"activation {found['act']}")
        if "padding" in found:
            found["padding"] = {0: "same", 1: "valid"}[found["padding"]]
        return found

    def _metadata(self) -> bytes | None:
        for index in range(min(self._model.MetadataLength(), MOST_OPERANDS)):
            entry = self._model.Metadata(index)
            if entry.Name() == b"TFLITE_METADATA" and entry.Buffer() < self._model.BuffersLength():
                return self._bytes(self._model.Buffers(entry.Buffer())) or None
        return None


_STRIDES: Final = {"stride_h": "StrideH", "stride_w": "StrideW"}
_CONV: Final = {
    "padding": "Padding",
    **_STRIDES,
    "dilation_h": "DilationHFactor",
    "dilation_w": "DilationWFactor",
    "act": "FusedActivationFunction",
}
_POOL: Final = {
    "padding": "Padding",
    **_STRIDES,
    "filter_h": "FilterHeight",
    "filter_w": "FilterWidth",
    "act": "FusedActivationFunction",
}
_ACT: Final = {"act": "FusedActivationFunction"}
# kind -> the table of its options, and those that are read: ours -> the accessor's name
OPTIONS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = MappingProxyType(
    {
        "CONV_2D": ("Conv2DOptions", _CONV),
        "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _CONV),
        "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
        "FULLY_CONNECTED": ("FullyConnectedOptions", {**_ACT, "weights_format": "WeightsFormat"}),
        "BATCH_MATMUL": ("BatchMatMulOptions", {"transposed_x": "AdjX", "transposed_y": "AdjY"}),
        "ADD": ("AddOptions", _ACT),
        "SUB": ("SubOptions", _ACT),
        "MUL": ("MulOptions", _ACT),
        "DIV": ("DivOptions", _ACT),
        "L2_NORMALIZATION": ("L2NormOptions", _ACT),
        "SOFTMAX": ("SoftmaxOptions", {"beta": "Beta"}),
    }
)


def _numbers(length: Callable[[], int], at: Callable[[int], int], *, most: int) -> tuple[int, ...]:
    if length() > most:
        raise refuse_file(f"a list of {length():,} numbers where at most {most} can be")
    return tuple(int(at(i)) for i in range(length()))


def _indexes(
    length: Callable[[], int], at: Callable[[int], int], tensors: int, *, optional: bool = False
) -> tuple[int, ...]:
    found = _numbers(length, at, most=MOST_OPERANDS)
    wrong = [index for index in found if not (-1 if optional else 0) <= index < tensors]
    if wrong:
        raise refuse_file(f"tensor {wrong[0]} of {tensors} is used")
    return found
