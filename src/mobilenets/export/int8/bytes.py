"""Float32 graph and ranges -> int8 graph: quantised by ONNX Runtime's quantiser, finished so that bytes stay bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtraError
from ...runtime.engines.onnx_runtime import FITTING
from ..onnx_graph import OUTPUT_NAME
from .model import Model
from .prepare import BYTES, Kernels
from .ranges import Range, Ranges, Scale, quiet, scale_of, swish_scale
from .weights import weight_steps

__all__ = ["QUANTIZED", "layer_steps", "quantized"]

# What is computed in bytes. Attention (MatMul, Softmax) and GELU stay float32.
QUANTIZED: Final = (
    "Conv",
    "Gemm",
    "Add",
    "Mul",
    "GlobalAveragePool",
    "Relu",
    "Clip",
    "HardSwish",
    "Flatten",
    "Transpose",
    "Reshape",
)

ROOM: Final = 1.1  # for logits above those seen: two that are cut off at the same byte would be a tie


def layer_steps(proto: Any) -> dict[str, NDArray[np.float32]]:
    """The steps (out,) of the weights of every convolution and product, by the weights' name; see `weight_steps`.

    Correcting biases moves no weight, so a graph has them once, however often it is quantised.

    Args:
        proto: the graph as `prepared` makes it, float32.
    """
    model = Model(proto)
    return {
        node.input[1]: weight_steps(model.constants[node.input[1]], in_pairs=not model.is_depthwise(node))
        for node in model.nodes
        if node.op_type in ("Conv", "Gemm")
    }


def quantized(
    proto: Any,
    ranges: Ranges,
    *,
    kernels: Kernels,
    floats: Collection[str] = (),
    steps: Mapping[str, NDArray[np.float32]] | None = None,
) -> Any:
    """An int8 model: weights int8 per output channel, activations uint8.

    Jacob et al. 2018 (arXiv:1712.05877) and Krishnamoorthi 2018 (arXiv:1806.08342, section 3.1): depthwise filters
    differ so much from channel to channel that one scale for all of them ruins a MobileNet.

    Args:
        proto: the graph as `prepared` makes it.
        ranges: of its values.
        kernels: the graph is prepared for these. OpenVINO fuses a hard-swish in float32 into the convolution before it;
            the others compute it in bytes. LiteRT has no matrix product of bytes that gives floats, so there the logits
            are bytes as well.
        floats: names of nodes that stay float32.
        steps: `layer_steps` of the graph, where they are known.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import TensorData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    except ImportError as error:
        raise MissingExtraError("onnx", extra="export") from error
    source = Model(proto)
    kept = {*floats, *_float_nodes(source, kernels=kernels)}
    known = layer_steps(proto) if steps is None else steps
    overrides: dict[str, list[dict[str, Any]]] = {
        name: [{"scale": np.array(scale.step, np.float32), "zero_point": np.array(scale.zero, np.uint8)}]
        for name, scale in _scales(source, ranges, kept=kept).items()
    }
    for node in source.nodes:
        if node.op_type in ("Conv", "Gemm") and node.name not in kept:
            overrides[node.input[1]] = [
                {"axis": 0, "quant_type": QuantType.QInt8, "scale": step, "zero_point": np.array(0, np.int8)}
                for step in known[node.input[1]]
            ]
    with quiet():
        made = QDQQuantizer(
            source.proto(),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range={
                name: TensorData(lowest=np.float32(each.low), highest=np.float32(each.high))
                for name, each in ranges.items()
            },
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(kept),
            op_types_to_quantize=list(QUANTIZED),
            extra_options={"TensorQuantOverrides": overrides},
        ).quantize_model()
    model = Model(made)
    if kernels != "litert":
        _logits_as_floats(model)
    _pixels_are_bytes(model)
    if kernels != "openvino":
        _swish_in_bytes(model)
    finished = model.proto()
    finished.metadata_props.add(key=FITTING, value="yes")  # for `weight_steps` have seen to it
    return finished


def _float_nodes(model: Model, *, kernels: Kernels) -> set[str]:
    """Names of nodes that are better left alone."""
    names = {node.name for node in model.nodes if node.name.startswith("input.")}
    for node in model.nodes:
        if node.op_type in ("MatMul", "Softmax", "Erf"):  # attention, and GELU: with what is around them
            names |= {each.name for each in model.nodes if each.op_type != "Conv" and _beside(node.name, each.name)}
        if node.op_type == "HardSwish" and kernels == "openvino":
            names.add(node.name)
    return names


def _beside(name: str, other: str) -> bool:
    """Whether two nodes belong to the same attention ("rows.7") or the same activation ("rows.7.expand.gelu")."""
    place, _, _ = name.rpartition(".")
    return other.startswith(f"{place}.") or other == place


def _scales(model: Model, ranges: Ranges, *, kept: Collection[str]) -> dict[str, Scale]:
    """The bytes of values whose range is not simply what was seen."""
    scales = {}
    for node in model.nodes:
        if node.op_type == "HardSwish" and node.name not in kept:
            scales[node.input[0]] = swish_scale(ranges[node.input[0]])
    made = model.maker(BYTES)
    if made is not None:
        scales[BYTES] = _byte_scale(model, made)
    if OUTPUT_NAME in ranges:
        seen = ranges[OUTPUT_NAME]
        scales[OUTPUT_NAME] = scale_of(Range(ROOM * seen.low, ROOM * seen.high))
    return scales


def _byte_scale(model: Model, node: Any) -> Scale:
    """Bytes for the pixels: of step one where a whole number is subtracted; else all that is possible, seen or not."""
    if node.op_type == "Add":
        return Scale(step=1.0, zero=-int(model.constants[node.input[1]].item()))
    mean = model.constants["input.mean"]
    return scale_of(Range(float(mean.min()), float(mean.max()) + 255))


def _logits_as_floats(model: Model) -> None:
    """256 steps are too few to tell a thousand logits apart; and the last product gives floats in the same time."""
    last = model.maker(OUTPUT_NAME)
    if last is None or last.op_type != "DequantizeLinear":
        return
    quantize = model.maker(last.input[0])
    gemm = None if quantize is None else model.maker(quantize.input[0])
    if gemm is not None:
        model.nodes.remove(quantize)
        model.nodes.remove(last)
        gemm.output[0] = OUTPUT_NAME


def _pixels_are_bytes(model: Model) -> None:
    """To make floats of pixels, subtract a whole number and quantise in steps of one gives the pixels back."""
    add = model.maker(BYTES)
    if add is None or add.op_type != "Add":
        return
    cast = model.maker(add.input[0])
    for node in model.readers(BYTES):
        if cast is not None and cast.op_type == "Cast" and node.op_type == "QuantizeLinear":
            model.read_instead(node.output[0], cast.input[0])


def _swish_in_bytes(model: Model) -> None:
    """Hard-swish as a clip of bytes and a product; see `swish_scale`.

    Written with standard operators: an engine that knows products of bytes makes no number a float in between.
    """
    for node in [each for each in model.nodes if each.op_type == "HardSwish"]:
        before = model.maker(node.input[0])
        after = model.readers(node.output[0])
        if before is None or before.op_type != "DequantizeLinear" or len(after) != 1:
            continue  # in a part that stays float32
        if after[0].op_type != "QuantizeLinear":
            continue
        value, step, zero = before.input
        knee = int(model.constants[zero])
        bounds = [
            model.constant(f"{node.name}.{name}", np.array(bound, np.uint8))
            for name, bound in (("low", 0), ("high", 2 * knee))
        ]
        gate = model.node("Clip", [value, *bounds], name=f"{node.name}.gate")
        sixth = model.constant(f"{gate}.step", (model.constants[step] / 6).astype(np.float32))
        none = model.constant(f"{gate}.zero", np.array(0, np.uint8))
        factor = model.node("DequantizeLinear", [gate, sixth, none], name=f"{gate}.float")
        product = model.node("Mul", [node.input[0], factor], name=f"{node.name}.product")
        after[0].input[0] = product
