"""Writes bundles as TensorFlow Lite files in the styles that converters have: what the reader is tested on.

Only for tests. Norms are folded in float64; quantised activations get made-up scales, for the reader looks at weights.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets.arch import AttentionRow, BottleneckRow, ConvRow, FusedRow, SeparableRow, UniversalRow
from mobilenets.arch.layers import Layer
from mobilenets.bundle import Bundle

FUSED = {"none": 0, "relu": 1, "relu6": 3}
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9, "int4": 17}
INPUT_SCALE, INPUT_ZERO = 1 / 64, 100  # made up, unlike any usual one


@dataclass(frozen=True)
class Style:
    """How a file says the same network."""

    numbers: Literal["float32", "float16", "dynamic", "int4", "uint8", "int8"] = "float32"
    padding: Literal["operator", "separate"] = "operator"  # SAME and VALID, or PAD in front of VALID
    classifier: Literal["conv", "dense", "matmul"] = "conv"
    hard_swish: Literal["native", "slim", "toco", "keras"] = "native"
    gate: Literal["slim", "folded", "keras"] = "slim"  # where the hard sigmoid's 3 and 6 are
    pooling: Literal["mean", "average_pool", "sum"] = "mean"
    activations: Literal["fused", "separate", "bounds"] = "fused"
    norms: Literal["folded", "left"] = "folded"
    layout: Literal["channels_last", "channels_first"] = "channels_last"
    softmax: bool = True
    end: Literal["classifier", "unit_classifier", "hidden", "mean", "unit", "map", "segmentation"] = "classifier"
    quantised_here: tuple[float, int] | None = None  # a float input that is then quantised, by this scale and zero
    rescaling: tuple[float, float] | None = None  # factor and summand in front of the first layer
    labels: tuple[str, ...] | None = None
    normalization: tuple[float, float] | None = None  # mean and std in the metadata, in pixels


def write(bundle: Bundle, style: Style | None = None) -> bytes:
    """The bytes of a `.tflite` file."""
    return _Writer(bundle, style or Style()).content()


def altered(content: bytes, change: Callable[[Any], None]) -> bytes:
    """A file with its parts changed: `change` gets the model as objects."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    return packed(model)


def packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Writer:
    def __init__(self, bundle: Bundle, style: Style) -> None:
        self.bundle, self.style = bundle, style
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.description = 3, "written by a test"
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.codes: dict[str, int] = {}

    # Tensors and operators

    def tensor(self, shape: tuple[int, ...], *, type: str | None = None, data: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        quantised = self.style.numbers in ("uint8", "int8")
        type = type or (self.style.numbers if quantised else "float32")
        made.shape, made.type, made.name = list(shape), TYPES[type], f"tensor {len(self.graph.tensors)}"
        if data is None:
            made.buffer = 0
            if quantised and type in ("uint8", "int8"):
                self.quantise(made, np.array([0.05]), np.array([3]))
        else:
            made.buffer = len(self.model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def quantise(self, tensor: Any, scale: np.ndarray, zero: np.ndarray, axis: int = 0) -> None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scale.astype(np.float32)
        tensor.quantization.zeroPoint = np.broadcast_to(zero, scale.shape).astype(np.int64)
        tensor.quantization.quantizedDimension = axis

    def operator(self, kind: str, inputs: list[int], shape: tuple[int, ...], options: Any = None) -> int:
        if kind not in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
            self.codes[kind] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = self.codes[kind], inputs
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        out = self.tensor(shape)
        made.outputs = [out]
        self.graph.operators.append(made)
        return out

    def shape(self, value: int) -> tuple[int, ...]:
        return tuple(self.graph.tensors[value].shape)

    def numbers(self, values: list[int]) -> int:
        array = np.array(values, np.int32)
        return self.tensor(array.shape, type="int32", data=array)

    def weight(self, values: np.ndarray, *, axis: int) -> int:
        """A constant, as the style stores weights; `axis` is that of the output channels."""
        match self.style.numbers:
            case "float32":
                return self.tensor(values.shape, data=values.astype(np.float32))
            case "float16":
                stored = self.tensor(values.shape, type="float16", data=values.astype(np.float16))
                return self.operator("DEQUANTIZE", [stored], values.shape, schema.DequantizeOptionsT())
            case "uint8":
                low, high = min(values.min(), 0.0), max(values.max(), 1e-6)
                scale = np.float32((high - low) / 255)
                zero = round(float(-low / scale))
                whole = np.clip(np.round(values / scale) + zero, 0, 255).astype(np.uint8)
                index = self.tensor(values.shape, type="uint8", data=whole)
                self.quantise(self.graph.tensors[index], np.array([scale]), np.array([zero]))
                return index
            case "int8" | "dynamic" | "int4":
                others = tuple(i for i in range(values.ndim) if i != axis)
                scale = np.maximum(np.abs(values).max(axis=others), 1e-6).astype(np.float32) / (
                    7 if self.style.numbers == "int4" else 127
                )
                sides = [1] * values.ndim
                sides[axis] = -1
                whole = np.round(values / scale.reshape(sides)).astype(np.int8)
                kind, stored = "int8", whole
                if self.style.numbers == "int4":  # two to a byte, the first in the low half
                    flat = np.append(whole.reshape(-1), np.int8(0)) if whole.size % 2 else whole.reshape(-1)
                    kind, stored = "int4", (flat[::2] & 15) | ((flat[1::2] & 15) << 4)
                index = self.tensor(values.shape, type=kind, data=stored)
                self.quantise(self.graph.tensors[index], scale, np.array([0]), axis)
                return index

    def bias(self, values: np.ndarray) -> int:
        if self.style.numbers not in ("uint8", "int8"):
            if self.style.numbers == "float16":
                return self.weight(values, axis=0)
            return self.tensor(values.shape, data=values.astype(np.float32))
        scale = np.full(values.shape if self.style.numbers == "int8" else 1, 1e-6, np.float32)
        index = self.tensor(values.shape, type="int32", data=np.round(values / scale).astype(np.int32))
        self.quantise(self.graph.tensors[index], scale, np.array([0]))
        return index

    def constant(self, value: float | np.ndarray) -> int:
        """A constant of arithmetic."""
        array = np.asarray(value, np.float32)
        if self.style.numbers not in ("uint8", "int8"):
            return self.tensor(array.shape, data=array)
        high = 255 if self.style.numbers == "uint8" else 127
        scale = np.abs(array).max() / high
        zero = 0 if self.style.numbers == "int8" else 0 if (array >= 0).all() else 128
        scale = scale if zero == 0 else np.abs(array).max() / 127
        whole = np.round(array / scale + zero).astype(self.style.numbers)
        index = self.tensor(array.shape, type=self.style.numbers, data=whole)
        self.quantise(self.graph.tensors[index], np.array([scale]), np.array([zero]))
        return index

    def binary(self, kind: str, left: int, right: int) -> int:
        options = {"ADD": "AddOptionsT", "MUL": "MulOptionsT", "DIV": "DivOptionsT"}.get(kind, "MaximumMinimumOptionsT")
        shape = np.broadcast_shapes(self.shape(left), self.shape(right))
        return self.operator(kind, [left, right], tuple(int(s) for s in shape), getattr(schema, options)())

    # Layers

    def act(self, value: int, act: str) -> int:
        style, shape = self.style, self.shape(value)
        if act == "none":
            return value
        if act in FUSED and style.activations == "bounds":
            value = self.binary("MAXIMUM", value, self.constant(0.0)) if act != "none" else value
            return value if act == "relu" else self.binary("MINIMUM", value, self.constant(6.0))
        if act in FUSED:
            return self.operator(act.upper(), [value], shape)
        if style.hard_swish == "native":
            return self.operator("HARD_SWISH", [value], shape, schema.HardSwishOptionsT())
        if style.hard_swish == "slim":
            gate = self.operator("RELU6", [self.binary("ADD", value, self.constant(3.0))], shape)
            return self.binary("MUL", self.binary("MUL", value, gate), self.constant(0.16667))
        if style.hard_swish == "toco":  # ReLU6 within the sum, the division before the product
            gate = self.binary("ADD", self.constant(3.0), value)
            self.graph.operators[-1].builtinOptions.fusedActivationFunction = FUSED["relu6"]
            return self.binary("MUL", value, self.binary("MUL", gate, self.constant(1 / 6)))
        gate = self.binary("ADD", self.binary("MUL", value, self.constant(1 / 6)), self.constant(0.5))
        gate = self.binary("MINIMUM", self.binary("MAXIMUM", gate, self.constant(0.0)), self.constant(1.0))
        return self.binary("MUL", gate, value)

    def conv(self, value: int, layer: Layer, at: str, act: str, *, norm: str | None, padded: str) -> int:
        """A convolution with what follows it. weights (out, in / groups, k, k) of the bundle."""
        weight, scale, bias = self.folded(at, norm, layer)
        left = norm is not None and self.style.norms == "left"
        weight = weight if left else weight * scale.reshape(-1, 1, 1, 1)
        side = self.shape(value)[1]
        total = max((-(-side // layer.stride) - 1) * layer.stride + layer.reach - side, 0)
        pads = (total // 2, total - total // 2) if padded == "same" else (layer.reach // 2,) * 2
        same = padded == "same" or layer.stride == 1
        mode = 0 if same and self.style.padding == "operator" else 1
        out = -(-side // layer.stride)
        if mode == 1 and sum(pads):
            sides = self.tensor((4, 2), type="int32", data=np.array([[0, 0], pads, pads, [0, 0]], np.int32))
            shape = (1, side + sum(pads), side + sum(pads), self.shape(value)[3])
            value = self.operator("PAD", [value, sides], shape, schema.PadOptionsT())
        deep = layer.kind == "depthwise"
        options = schema.DepthwiseConv2DOptionsT() if deep else schema.Conv2DOptionsT()
        if deep:
            options.depthMultiplier = 1
        options.padding, options.strideW, options.strideH = mode, layer.stride, layer.stride
        options.dilationWFactor = options.dilationHFactor = layer.dilation
        fused = self.style.activations == "fused" and not left and act in FUSED
        options.fusedActivationFunction = FUSED[act] if fused else 0
        laid = weight.transpose(1, 2, 3, 0) if deep else weight.transpose(0, 2, 3, 1)
        inputs = [value, self.weight(laid, axis=3 if deep else 0), self.bias(np.zeros_like(bias) if left else bias)]
        shape = (1, out, out, layer.out_channels)
        value = self.operator("DEPTHWISE_CONV_2D" if deep else "CONV_2D", inputs, shape, options)
        if left:
            value = self.binary("ADD", self.binary("MUL", value, self.constant(scale)), self.constant(bias))
        return value if fused else self.act(value, act)

    def folded(self, at: str, norm: str | None, layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tensors = {name: tensor.astype(np.float64) for name, tensor in self.bundle.tensors.items() if at in name}
        weight = tensors[f"{at}.weight"] if f"{at}.weight" in tensors else tensors[f"{at}.conv.weight"]
        bias = tensors[f"{at}.bias"] if layer.bias else np.zeros(layer.out_channels)
        if norm is None:
            return weight, np.ones(layer.out_channels), bias
        norms = {n: t.astype(np.float64) for n, t in self.bundle.tensors.items() if n.startswith(f"{norm}.")}
        scale = norms[f"{norm}.weight"] / np.sqrt(norms[f"{norm}.running_var"] + self.bundle.spec.norm.eps)
        return weight, scale, (bias - norms[f"{norm}.running_mean"]) * scale + norms[f"{norm}.bias"]

    def pool(self, value: int, how: str) -> int:
        _, side, _, channels = self.shape(value)
        shape = (1, 1, 1, channels)
        if how == "average_pool":
            options = schema.Pool2DOptionsT()
            options.padding, options.strideW, options.strideH = 1, 1, 1
            options.filterWidth = options.filterHeight = side
            return self.operator("AVERAGE_POOL_2D", [value], shape, options)
        options = schema.ReducerOptionsT()
        options.keepDims = True
        kind = "SUM" if how == "sum" else "MEAN"
        pooled = self.operator(kind, [value, self.numbers([1, 2])], shape, options)
        return self.binary("MUL", pooled, self.constant(1 / side**2)) if how == "sum" else pooled

    def excite(self, value: int, squeeze: Layer, excite: Layer, at: str) -> int:
        gate, style = self.pool(value, self.style.pooling), self.style.gate
        gate = self.conv(gate, squeeze, f"{at}.squeeze", "relu", norm=None, padded="same")
        if style == "folded":  # the 3 has gone into the bias
            name = f"{at}.excite.bias"
            raised = {**self.bundle.tensors, name: self.bundle.tensors[name] + 3}
            self.bundle = Bundle(**{**vars(self.bundle), "tensors": raised})
            gate = self.conv(gate, excite, f"{at}.excite", "relu6", norm=None, padded="same")
            return self.binary("MUL", value, self.binary("MUL", gate, self.constant(1 / 6)))
        gate = self.conv(gate, excite, f"{at}.excite", "none", norm=None, padded="same")
        if style == "slim":
            gate = self.operator("RELU6", [self.binary("ADD", gate, self.constant(3.0))], self.shape(gate))
            return self.binary("MUL", self.binary("MUL", gate, value), self.constant(0.16667))
        gate = self.binary("ADD", self.binary("MUL", gate, self.constant(1 / 6)), self.constant(0.5))
        gate = self.operator("RELU_0_TO_1", [gate], self.shape(gate))
        return self.binary("MUL", gate, value)

    def row(self, value: int, placed: Any) -> int:
        row, at, padded = placed.row, f"rows.{placed.index}", self.bundle.spec.padding
        layers = {layer.name: layer for layer in row.layers(placed.in_channels)}
        linear = {
            ConvRow: (),
            SeparableRow: (),
            BottleneckRow: ("project",),
            FusedRow: ("project",),
            UniversalRow: ("start", "project"),
        }
        assert not isinstance(row, AttentionRow)
        block = value
        for name, layer in layers.items():
            if name == "squeeze":
                block = self.excite(block, layer, layers["excite"], f"{at}.excite")
            elif name != "excite":
                act = "none" if name in linear[type(row)] else row.act
                where = f"{at}.{name}"
                block = self.conv(block, layer, f"{where}.conv", act, norm=f"{where}.norm", padded=padded)
        return self.binary("ADD", block, value) if row.residual(placed.in_channels) else block

    def head(self, value: int) -> int:
        style, head = self.style, self.bundle.spec.head
        if style.end == "map":
            return value
        if style.end == "segmentation":  # a 1x1 convolution to the classes, then as large as the image
            side, width = self.bundle.spec.resolution, self.bundle.spec.out_channels
            layer = Layer(name="logits", kind="pointwise", in_channels=width, out_channels=head.classes, norm=False)
            at = "head.classifier"
            flat = self.bundle.tensors[f"{at}.weight"]
            tensors = {**self.bundle.tensors, f"{at}.weight": flat[:, :width, None, None]}
            self.bundle = Bundle(**{**vars(self.bundle), "tensors": tensors})
            value = self.conv(value, layer, at, "none", norm=None, padded="same")
            size = self.numbers([side, side])
            options = schema.ResizeBilinearOptionsT()
            return self.operator("RESIZE_BILINEAR", [value, size], (1, side, side, head.classes), options)
        value = self.pool(value, style.pooling)
        if style.end == "mean":
            return value
        for layer in head.layers(self.bundle.spec.out_channels):
            if layer.name == "classifier":
                break
            value = self.linear(value, layer, "head.hidden", "head.norm" if layer.norm else None, head.act)
        if style.end in ("unit", "unit_classifier"):
            value = self.operator("L2_NORMALIZATION", [value], self.shape(value), schema.L2NormOptionsT())
        if style.end in ("hidden", "unit"):
            return value
        value = self.linear(value, layer, "head.classifier", None, "none")
        flat = (1, head.classes)
        if self.shape(value) != flat:
            value = self.operator("RESHAPE", [value, self.numbers([1, -1])], flat, schema.ReshapeOptionsT())
        if style.softmax:
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            value = self.operator("SOFTMAX", [value], flat, options)
        return value

    def linear(self, value: int, layer: Layer, at: str, norm: str | None, act: str) -> int:
        weight, scale, bias = self.folded(at, norm, layer)
        weight = weight * scale[:, None]
        if self.style.classifier == "conv":
            made = schema.Conv2DOptionsT()
            made.padding, made.strideW, made.strideH, made.dilationWFactor, made.dilationHFactor = 0, 1, 1, 1, 1
            inputs = [value, self.weight(weight[:, None, None, :], axis=0), self.bias(bias)]
            return self.act(self.operator("CONV_2D", inputs, (1, 1, 1, layer.out_channels), made), act)
        flat = (1, layer.in_channels)
        if self.shape(value) != flat:
            value = self.operator("RESHAPE", [value, self.numbers([1, -1])], flat, schema.ReshapeOptionsT())
        shape = (1, layer.out_channels)
        if self.style.classifier == "dense":
            inputs = [value, self.weight(weight, axis=0), self.bias(bias)]
            return self.act(self.operator("FULLY_CONNECTED", inputs, shape, schema.FullyConnectedOptionsT()), act)
        value = self.operator(
            "BATCH_MATMUL", [value, self.weight(weight.T, axis=1)], shape, schema.BatchMatMulOptionsT()
        )
        return self.act(self.binary("ADD", value, self.constant(bias)), act)

    # The file

    def content(self) -> bytes:
        spec, style = self.bundle.spec, self.style
        first = style.layout == "channels_first"
        side, channels = spec.resolution, spec.channels
        value = self.tensor((1, channels, side, side) if first else (1, side, side, channels))
        if style.numbers in ("uint8", "int8"):
            zero = INPUT_ZERO if style.numbers == "uint8" else INPUT_ZERO - 128
            self.quantise(self.graph.tensors[value], np.array([INPUT_SCALE]), np.array([zero]))
        self.graph.inputs = [value]
        if style.quantised_here is not None:
            self.graph.tensors[value].type, self.graph.tensors[value].quantization = TYPES["float32"], None
            value = self.operator("QUANTIZE", [value], self.shape(value), schema.QuantizeOptionsT())
            scale, zero = style.quantised_here
            self.quantise(self.graph.tensors[value], np.array([scale]), np.array([zero]))
        if style.rescaling is not None:
            factor, summand = style.rescaling
            value = self.binary("ADD", self.binary("MUL", value, self.constant(factor)), self.constant(summand))
        if first:
            order = self.numbers([0, 2, 3, 1])
            value = self.operator("TRANSPOSE", [value, order], (1, side, side, channels), schema.TransposeOptionsT())
        for placed in spec.placed():
            value = self.row(value, placed)
        self.graph.outputs = [self.head(value)]
        self.model.subgraphs = [self.graph]
        if style.labels is not None or style.normalization is not None:
            self.model.metadata = [self.metadata()]
        content = packed(self.model)
        if style.labels is not None:
            attached = io.BytesIO(content)
            attached.seek(0, io.SEEK_END)
            with zipfile.ZipFile(attached, "a") as archive:
                archive.writestr("some_labels.txt", "\n".join(style.labels) + "\n")
            content = attached.getvalue()
        return content

    def metadata(self) -> Any:
        entry = schema.MetadataT()
        entry.name, entry.buffer = "TFLITE_METADATA", len(self.model.buffers)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(_about(self.style), np.uint8)
        self.model.buffers.append(buffer)
        return entry


def _about(style: Style) -> bytes:
    """The metadata flatbuffer, field by field as `metadata_schema.fbs` numbers them."""
    build = flatbuffers.Builder(256)

    def table(fields: dict[int, tuple[str, int]], count: int) -> int:
        build.StartObject(count)
        for field, (kind, value) in fields.items():
            if kind == "byte":
                build.PrependUint8Slot(field, value, 0)
            else:
                build.PrependUOffsetTRelativeSlot(field, value, 0)
        return build.EndObject()

    def vector(items: list[int]) -> int:
        build.StartVector(4, len(items), 4)
        for item in reversed(items):
            build.PrependUOffsetTRelative(item)
        return build.EndVector()

    inputs: dict[int, tuple[str, int]] = {}
    if style.normalization is not None:
        mean, std = (build.CreateNumpyVector(np.array([v], np.float32)) for v in style.normalization)
        options = table({0: ("offset", mean), 1: ("offset", std)}, 2)
        inputs[4] = ("offset", vector([table({0: ("byte", 1), 1: ("offset", options)}, 2)]))
    outputs: dict[int, tuple[str, int]] = {}
    if style.labels is not None:
        name = build.CreateString("some_labels.txt")
        outputs[6] = ("offset", vector([table({0: ("offset", name), 2: ("byte", 2)}, 4)]))
    first, last = vector([table(inputs, 7)]), vector([table(outputs, 7)])
    subgraph = vector([table({2: ("offset", first), 3: ("offset", last)}, 5)])
    licence = build.CreateString("CC0")
    build.Finish(table({3: ("offset", subgraph), 5: ("offset", licence)}, 8), file_identifier=b"M001")
    return bytes(build.Output())
