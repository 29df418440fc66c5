"""Table + tensors -> ONNX graph, row by row. No torch: a graph is written straight from the spec.

The graph takes raw pixels (uint8, N x R x R x C) and gives logits; normalisation and batch norms are inside. Node names
are the names of the table's layers (`rows.3.depthwise`), so a profile of the file reads like the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..arch.layers import same_pads
from ..arch.rows import Activation, AttentionRow, BottleneckRow, ConvRow, FusedRow, Layer, SeparableRow, UniversalRow
from ..arch.spec import ArchSpec, PlacedRow
from ..bundle import Tensors
from ..errors import FileFormatError, MissingExtraError, SpecError
from ..records import Preprocess

__all__ = ["EMITTERS", "INPUT_NAME", "OUTPUT_NAME", "to_onnx"]

INPUT_NAME: Final = "pixels"
OUTPUT_NAME: Final = "logits"
OPSET: Final = 17  # of 2022: engines on boards are seldom new, and nothing newer is needed
IR_VERSION: Final = 8  # what goes with that opset


class Graph:
    """An ONNX graph in the making. Values are handed around by name."""

    def __init__(self, spec: ArchSpec, tensors: Tensors) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError as error:
            raise MissingExtraError("onnx", extra="export") from error
        self._helper = helper
        self._from_array = numpy_helper.from_array
        self.spec = spec
        self.tensors = tensors
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node; returns its output's name, which is the node's."""
        self.nodes.append(self._helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Append a constant; returns its name."""
        self.constants.append(self._from_array(np.ascontiguousarray(value), name))
        return name

    def reshape(self, value: str, shape: list[int], *, name: str) -> str:
        """Append a reshape; 0 keeps a dimension."""
        return self.add("Reshape", value, self.constant(f"{name}.shape", np.array(shape, np.int64)), name=name)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor of the bundle.

        Raises:
            FileFormatError: it is not there.
        """
        if name not in self.tensors:
            raise FileFormatError(f"no tensor {name}", wanted="the tensors of the spec", do="use the matching bundle")
        return self.tensors[name]

    def conv(
        self,
        value: str,
        layer: Layer,
        *,
        at: str,
        size: int,
        act: Activation,
        bare: bool = False,
        times: NDArray[np.float32] | float = 1.0,
    ) -> str:
        """A convolution with its norm folded in, then its activation.

        Args:
            value: the input, (N, in, size, size).
            layer: what to convolve.
            at: the layer's place in the state dict ("rows.3.depthwise").
            size: of the input, pixels.
            act: behind the convolution.
            bare: the tensors lie at `at` itself, as those of squeeze-and-excite do.
            times: a factor, or one per output channel, that is folded in behind the norm.
        """
        weight, bias = self.folded(at if bare else f"{at}.conv", f"{at}.norm" if layer.norm else None, layer)
        factor = np.broadcast_to(np.asarray(times, np.float32), bias.shape)
        weight, bias = weight * factor.reshape(-1, 1, 1, 1), bias * factor
        before, after = self._pads(layer, size)
        output = self.add(
            "Conv",
            value,
            self.constant(f"{at}.weight", weight),
            self.constant(f"{at}.bias", bias),
            name=at,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            dilations=[layer.dilation] * 2,
            pads=[before, before, after, after],
            group=layer.groups,
        )
        return self.activate(output, act)

    def activate(self, value: str, act: Activation) -> str:
        """An activation behind `value`.

        Raises:
            SpecError: the activation is unknown.
        """
        name = f"{value}.{act}"
        if act == "none":
            return value
        if act == "relu":
            return self.add("Relu", value, name=name)
        if act == "relu6":
            low, high = (self.constant(f"{name}.{k}", np.array(v, np.float32)) for k, v in (("low", 0), ("high", 6)))
            return self.add("Clip", value, low, high, name=name)
        if act == "hard_swish":
            return self.add("HardSwish", value, name=name)
        if act == "gelu":
            # x / 2 * (1 + erf(x / sqrt 2)) in the order that engines recognise: Gelu itself came with opset 20.
            root, one, half = (
                self.constant(f"{name}.{k}", np.array(v, np.float32))
                for k, v in (("root", math.sqrt(2)), ("one", 1), ("half", 0.5))
            )
            share = self.add("Erf", self.add("Div", value, root, name=f"{name}.scaled"), name=f"{name}.erf")
            share = self.add("Add", share, one, name=f"{name}.share")
            return self.add("Mul", self.add("Mul", value, share, name=f"{name}.twice"), half, name=name)
        raise SpecError(
            f"activation is {act!r}", wanted="relu, relu6, hard_swish, gelu or none", do="correct act in the spec"
        )

    def folded(self, conv: str, norm: str | None, layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias of a layer with the norm behind it folded in (Jacob et al. 2018, section 3.2), in float64."""
        weight = self.tensor(f"{conv}.weight").astype(np.float64)
        bias = self.tensor(f"{conv}.bias").astype(np.float64) if layer.bias else np.zeros(layer.out_channels)
        if norm is not None:
            scale, shift = self.norm(norm)
            weight *= scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = bias * scale + shift
        return weight.astype(np.float32), bias.astype(np.float32)

    def norm(self, at: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What a norm multiplies each channel with and then adds, in inference."""
        variance = self.tensor(f"{at}.running_var").astype(np.float64) + self.spec.norm.eps
        scale = self.tensor(f"{at}.weight") / np.sqrt(variance)
        return scale, self.tensor(f"{at}.bias") - self.tensor(f"{at}.running_mean") * scale

    def _pads(self, layer: Layer, size: int) -> tuple[int, int]:
        if self.spec.padding == "symmetric" or layer.stride == 1:
            return layer.reach // 2, layer.reach // 2
        if self.spec.padding == "same":
            return same_pads(size, reach=layer.reach, stride=layer.stride)
        raise SpecError(f"padding is {self.spec.padding!r}", wanted="symmetric or same", do="correct it in the spec")


def to_onnx(spec: ArchSpec, tensors: Tensors, preprocess: Preprocess) -> Any:
    """The ONNX model (`onnx.ModelProto`) of a network; the batch dimension is free.

    Raises:
        MissingExtraError: the package onnx is not installed.
        FileFormatError: a tensor is missing.
        SpecError: a row type has no emitter.
    """
    graph = Graph(spec, tensors)
    value = _normalised(graph, preprocess)
    for placed in spec.placed():
        if type(placed.row) not in EMITTERS:
            raise SpecError(
                f"a row of type {type(placed.row).__name__}",
                wanted="one of " + ", ".join(kind.__name__ for kind in EMITTERS),
                do="add an emitter to EMITTERS",
            )
        value = EMITTERS[type(placed.row)](graph, value, placed)
    _head(graph, value)
    return _model(graph)


def _normalised(graph: Graph, preprocess: Preprocess) -> str:
    # Moving single bytes before they become floats is a quarter of the traffic.
    value = graph.add("Transpose", INPUT_NAME, name="input.planes", perm=[0, 3, 1, 2])
    value = graph.add("Cast", value, name="input.float", to=1)
    mean, std = (_per_channel(values) for values in (preprocess.mean, preprocess.std))
    value = graph.add(
        "Mul", value, graph.constant("input.scale", (1 / (255 * std)).astype(np.float32)), name="input.scaled"
    )
    return graph.add(
        "Add", value, graph.constant("input.shift", (-mean / std).astype(np.float32)), name="input.normalised"
    )


def _per_channel(values: tuple[float, ...]) -> NDArray[np.float64]:
    """(1, C, 1, 1); a single number where the channels agree.

    ONNX Runtime moves both steps before the transposition, and there a step per channel takes 0.37 ms of an image of
    224 pixels where a single number takes 0.015.
    """
    array = np.array(values, np.float64)
    return array[0] if len(set(values)) == 1 else array.reshape(1, -1, 1, 1)


def _conv_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: ConvRow = placed.row  # type: ignore[assignment]
    (layer,) = row.layers(placed.in_channels)
    return graph.conv(value, layer, at=f"rows.{placed.index}.conv", size=placed.in_size, act=row.act)


def _separable_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: SeparableRow = placed.row  # type: ignore[assignment]
    depthwise, project = row.layers(placed.in_channels)
    at = f"rows.{placed.index}"
    value = graph.conv(value, depthwise, at=f"{at}.depthwise", size=placed.in_size, act=row.act)
    return graph.conv(value, project, at=f"{at}.project", size=placed.out_size, act=row.act)


def _bottleneck_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: BottleneckRow = placed.row  # type: ignore[assignment]
    layers = {layer.name: layer for layer in row.layers(placed.in_channels)}
    at, block = f"rows.{placed.index}", value
    if "expand" in layers:
        block = graph.conv(block, layers["expand"], at=f"{at}.expand", size=placed.in_size, act=row.act)
    block = graph.conv(block, layers["depthwise"], at=f"{at}.depthwise", size=placed.in_size, act=row.act)
    if "squeeze" in layers:
        gate = graph.add("GlobalAveragePool", block, name=f"{at}.excite.pool")
        gate = graph.conv(gate, layers["squeeze"], at=f"{at}.excite.squeeze", size=1, act="relu", bare=True)
        gate = graph.conv(gate, layers["excite"], at=f"{at}.excite.excite", size=1, act="none", bare=True)
        gate = graph.add("HardSigmoid", gate, name=f"{at}.excite.gate", alpha=1 / 6, beta=0.5)
        block = graph.add("Mul", block, gate, name=f"{at}.excite")
    block = graph.conv(block, layers["project"], at=f"{at}.project", size=placed.out_size, act="none")
    return graph.add("Add", value, block, name=f"{at}.sum") if row.residual(placed.in_channels) else block


def _head(graph: Graph, value: str) -> None:
    value = graph.add("GlobalAveragePool", value, name="head.pool")
    value = graph.add("Flatten", value, name="head.flatten", axis=1)
    layers = graph.spec.head.layers(graph.spec.out_channels)
    for layer in layers:
        at = f"head.{layer.name}"
        last = layer is layers[-1]
        weight, bias = graph.folded(at, "head.norm" if layer.norm else None, layer)
        value = graph.add(
            "Gemm",
            value,
            graph.constant(f"{at}.weight", weight),
            graph.constant(f"{at}.bias", bias),
            name=OUTPUT_NAME if last else at,
            transB=1,
        )
        value = value if last else graph.activate(value, graph.spec.head.act)


def _fused_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: FusedRow = placed.row  # type: ignore[assignment]
    expand, project = row.layers(placed.in_channels)
    at = f"rows.{placed.index}"
    block = graph.conv(value, expand, at=f"{at}.expand", size=placed.in_size, act=row.act)
    block = graph.conv(block, project, at=f"{at}.project", size=placed.out_size, act="none")
    return graph.add("Add", value, block, name=f"{at}.sum") if row.residual(placed.in_channels) else block


def _universal_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: UniversalRow = placed.row  # type: ignore[assignment]
    at, block, size = f"rows.{placed.index}", value, placed.in_size
    scale = graph.tensor(f"{at}.layer_scale.gamma") if row.layer_scale else 1.0
    for layer in row.layers(placed.in_channels):
        if layer.kind == "scale":
            continue  # folded into the projection before it
        act = row.act if layer.name in ("expand", "middle") else "none"
        times = scale if layer.name == "project" else 1.0
        block = graph.conv(block, layer, at=f"{at}.{layer.name}", size=size, act=act, times=times)
        size = -(-size // layer.stride)
    return graph.add("Add", value, block, name=f"{at}.sum") if row.residual(placed.in_channels) else block


def _attention_row(graph: Graph, value: str, placed: PlacedRow) -> str:
    row: AttentionRow = placed.row  # type: ignore[assignment]
    layers = {layer.name: layer for layer in row.layers(placed.in_channels)}
    at, side = f"rows.{placed.index}", placed.in_size
    keys = layers["attend"].keys(side)

    def rows_of(name: str, heads: int, count: int) -> list[int]:
        return [0, heads, layers[name].out_channels // heads, count]  # 0: the batch, whatever it is

    normed = _norm_alone(graph, value, layers["norm"], at=f"{at}.norm")
    query = graph.conv(
        normed, layers["query"], at=f"{at}.query", size=side, act="none", times=1 / math.sqrt(row.key_width)
    )
    query = graph.reshape(query, rows_of("query", row.heads, side**2), name=f"{at}.query.heads")
    query = graph.add("Transpose", query, name=f"{at}.query.rows", perm=[0, 1, 3, 2])
    parts = []
    for name in ("key", "value"):
        part, size = normed, side
        if f"{name}_down" in layers:
            part = graph.conv(part, layers[f"{name}_down"], at=f"{at}.{name}_down", size=size, act="none")
            size = -(-size // row.keys_stride)
        part = graph.conv(part, layers[name], at=f"{at}.{name}", size=size, act="none")
        parts.append(graph.reshape(part, rows_of(name, 1, keys), name=f"{at}.{name}.head"))
    values = graph.add("Transpose", parts[1], name=f"{at}.value.rows", perm=[0, 1, 3, 2])
    shares = graph.add(
        "Softmax", graph.add("MatMul", query, parts[0], name=f"{at}.scores"), name=f"{at}.shares", axis=-1
    )
    found = graph.add("MatMul", shares, values, name=f"{at}.attend")
    found = graph.add("Transpose", found, name=f"{at}.attend.planes", perm=[0, 1, 3, 2])
    found = graph.reshape(found, [0, layers["attend"].out_channels, side, side], name=f"{at}.attend.map")
    scale = graph.tensor(f"{at}.layer_scale.gamma") if row.layer_scale else 1.0
    block = graph.conv(found, layers["project"], at=f"{at}.project", size=side, act="none", times=scale)
    return graph.add("Add", value, block, name=f"{at}.sum") if row.residual(placed.in_channels) else block


def _norm_alone(graph: Graph, value: str, layer: Layer, *, at: str) -> str:
    """A norm with no convolution before it: a depthwise one of one pixel, so that int8 has a scale per channel."""
    factor, shift = graph.norm(at)
    return graph.add(
        "Conv",
        value,
        graph.constant(f"{at}.weight", factor.reshape(-1, 1, 1, 1).astype(np.float32)),
        graph.constant(f"{at}.bias", shift.astype(np.float32)),
        name=at,
        kernel_shape=[1, 1],
        group=layer.groups,
    )


EMITTERS: Mapping[type[Any], Callable[[Graph, str, PlacedRow], str]] = MappingProxyType(
    {
        ConvRow: _conv_row,
        SeparableRow: _separable_row,
        BottleneckRow: _bottleneck_row,
        FusedRow: _fused_row,
        UniversalRow: _universal_row,
        AttentionRow: _attention_row,
    }
)


def _model(graph: Graph) -> Any:
    from onnx import TensorProto, checker, helper

    spec = graph.spec
    side = spec.resolution
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            spec.name,
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", side, side, spec.channels])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", spec.head.classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mobilenets",
    )
    checker.check_model(model, full_check=True)
    return model
