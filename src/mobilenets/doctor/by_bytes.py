"""Rules about int8 files: what is not in bytes, and bytes that say too little."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .compiled import Compiled
from .graph import COMPUTES, Graph, Node, mult_adds, scalar, short, weight_of
from .records import Finding
from .seen import Saturated, Seen

__all__ = [
    "convolutions_left_in_float",
    "float_islands",
    "float_weights",
    "one_scale_for_all",
    "saturated_ranges",
    "sums_beyond_16_bits",
    "uncalibrated_ranges",
    "zero_points_out_of_place",
]

FLOAT_SHARE: Final = 0.10  # of the weights' bytes; a bias and a norm's leftovers are below it
FEW_STEPS: Final = 16  # of 127, that a channel is left with: its weights are off by 3 % of the largest one
FEW_CHANNELS: Final = 0.25
WASTED: Final = 0.05  # of the steps, below zero for a value that is never below zero
SATURATED: Final = 0.02  # of a value's numbers
PAIR: Final = 128  # steps of two weights: 255 times that is the last that 16 bits with a sign hold
SAME: Final = 3  # activations with one and the same scale, from which on nobody measured them
# Where activations end that quantisers leave out, for bytes clip anyway: ReLU, hard-swish; hard-sigmoid, ReLU6.
FLOORS: Final = (0.0, -3.0)
KNEES: Final = (1.0, 6.0)
QUANTIZE: Final = "mobilenets quantize BUNDLE DATA"
FLOATS: Final = frozenset({"float", "float16", "double"})
FLOAT_LAYERS: Final = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


def float_weights(seen: Seen) -> Finding | None:
    """Filters and matrices that an int8 file keeps as floats."""
    if not seen.is_int8:
        return None
    kept = [(node, weight) for node in seen.graph.nodes if (weight := weight_of(seen.graph, node)) is not None]
    kept += list(_byte_weights(seen.graph))
    floats = [(node, weight) for node, weight in kept if weight.dtype.kind == "f"]
    total = sum(weight.nbytes for _, weight in kept)
    if not total:
        return None
    share = sum(weight.nbytes for _, weight in floats) / total
    if share <= FLOAT_SHARE:
        return None
    largest = max(floats, key=lambda pair: pair[1].nbytes)
    told = (
        f"{100 * share:.1f} % of the {total / 1e6:.2f} MB of weights are float, in {len(floats)} of {len(kept)} layers"
    )
    told += f"; most in {short(largest[0].name)} ({largest[1].nbytes / 1e6:.2f} MB)"
    late = sum(_reads_bytes(seen.graph, node) for node, _ in floats)
    told += f"; {late} of them are made bytes when the file is opened" if late else ""
    return Finding(
        problem="float weights",
        weight="large",
        evidence=told,
        costs="the file is larger than int8 has to be, and layers with float weights compute in float",
        remedy=f"quantise weights too: {QUANTIZE}; or quantize_static(..., per_channel=True) without nodes_to_exclude",
        nodes=tuple(node.name for node, _ in floats),
    )


def _byte_weights(graph: Graph) -> Iterator[tuple[Node, NDArray[Any]]]:
    """Of operators that take bytes themselves: QLinearConv, ConvInteger, QGemm ..."""
    places = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1}
    for node in graph.nodes:
        place = places.get(node.op)
        if place is not None and len(node.inputs) > place and node.inputs[place] in graph.constants:
            yield node, graph.constants[node.inputs[place]]


def one_scale_for_all(seen: Seen) -> Finding | None:
    """Weights with one scale for channels that differ much (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1)."""
    graph = seen.graph
    poor: list[tuple[Node, int, int]] = []
    single = 0
    for node in graph.works("Conv", "Gemm", "MatMul"):
        weight, steps = _filters(graph, node)
        if weight is None or not steps:
            continue
        single += 1
        few = int((steps_of(weight) < FEW_STEPS).sum())
        if few > FEW_CHANNELS * len(weight):
            poor.append((node, few, len(weight)))
    if not poor:
        return None
    worst = max(poor, key=lambda each: each[1] / each[2])
    share = f"more than {100 * FEW_CHANNELS:.0f} % of the channels use fewer than {FEW_STEPS} of 127 steps"
    told = f"{single} layers have one scale for all channels; in {len(poor)} of them {share}; "
    told += f"most in {short(worst[0].name)}: {worst[1]} of {worst[2]}"
    return Finding(
        problem="one scale for all channels",
        weight="wrong",
        evidence=told,
        costs="small channels become a few numbers; accuracy drops, unless it was trained so",
        remedy=f"a scale per channel: quantize_static(..., per_channel=True); or {QUANTIZE}",
        nodes=tuple(node.name for node, _, _ in poor),
    )


def _filters(graph: Graph, node: Node) -> tuple[NDArray[Any] | None, bool]:
    """A layer's bytes as (channels, the rest), around zero, and whether they have one scale for all."""
    dequantize = graph.maker(node.inputs[1]) if len(node.inputs) > 1 else None
    if dequantize is None or dequantize.op != "DequantizeLinear":
        return None, False
    bytes_ = graph.constants.get(dequantize.inputs[0])
    scale = graph.constants.get(dequantize.inputs[1])
    if bytes_ is None or scale is None or bytes_.dtype.kind not in "iu" or scale.size != 1:
        return None, False
    zero = graph.constants.get(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    middle = 0.0 if zero is None else float(np.asarray(zero, np.float64).reshape(-1)[0])
    axis = _channel_axis(graph, node, bytes_)
    moved = np.moveaxis(bytes_.astype(np.float64) - middle, axis, 0)
    return moved.reshape(len(moved), -1), True


def _channel_axis(graph: Graph, node: Node, weight: NDArray[Any]) -> int:
    if node.op == "Conv":
        depthwise = int(node.attributes.get("group", 1)) > 1
        return weight.ndim - 1 if graph.pixels and depthwise else 0
    if node.op == "Gemm":
        return 0 if graph.pixels or node.attributes.get("transB", 0) else 1
    return weight.ndim - 1


def steps_of(filters: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many steps away from zero the largest weight of each channel (C, n) is. A channel of zeros needs none."""
    largest = np.abs(filters).max(axis=1)
    return np.where(largest == 0, np.inf, largest)


def uncalibrated_ranges(seen: Seen) -> Finding | None:
    """Scales that are no numbers, zero, or the same everywhere."""
    graph = seen.graph
    odd, scales = [], {}
    for node in graph.nodes:
        for scale in _scales(graph, node):
            if not (np.isfinite(scale).all() and (scale > 0).all()):
                odd.append(node)
        if node.op == "QuantizeLinear" and graph.source(node.inputs[0]) not in graph.constants:
            number = scalar(graph, node.inputs[1])
            if number is not None:
                scales[node.name] = number
    if odd:
        return Finding(
            problem="uncalibrated ranges",
            weight="wrong",
            evidence=f"{len(odd)} operators have a scale of 0, infinity or no number; first {short(odd[0].name)}",
            costs="everything behind them is a constant or no number",
            remedy=f"calibrate with real images: {QUANTIZE}",
            nodes=tuple(node.name for node in odd),
        )
    if len(scales) >= SAME and len(set(scales.values())) == 1:
        return Finding(
            problem="uncalibrated ranges",
            weight="wrong",
            evidence=f"all {len(scales)} activations have the scale {next(iter(scales.values())):g}",
            costs="ranges were never measured: values outside are cut off, small ones become zero",
            remedy=f"calibrate with real images: {QUANTIZE}",
            nodes=tuple(scales),
        )
    return None


def _scales(graph: Graph, node: Node) -> Iterator[NDArray[Any]]:
    places = {"QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}
    for place in places.get(node.op, ()):
        constant = graph.constants.get(node.inputs[place]) if place < len(node.inputs) else None
        if constant is not None:
            yield np.asarray(constant, np.float64)


def zero_points_out_of_place(seen: Seen) -> Finding | None:
    """Steps spent below zero on what is never below zero."""
    graph = seen.graph
    found: list[tuple[Node, float]] = []
    for node in graph.works("QuantizeLinear"):
        maker = graph.maker(node.inputs[0])
        zero = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if maker is None or zero is None or zero.size != 1 or not _never_negative(graph, maker):
            continue
        if zero.dtype.kind in "iu" and zero.dtype.itemsize == 1:
            spent = (float(zero.reshape(-1)[0]) - np.iinfo(zero.dtype).min) / 255
            if spent > WASTED:
                found.append((node, spent))
    if not found:
        return None
    worst = max(found, key=lambda pair: pair[1])
    told = f"{len(found)} values that are never negative keep steps below zero; most in {short(worst[0].name)}: "
    told += f"{100 * worst[1]:.0f} % of 256"
    return Finding(
        problem="zero points out of place",
        weight="wrong",
        evidence=told,
        costs="what is left is coarser: half of the steps gone is one bit of eight",
        remedy=f"unsigned bytes from the lowest value seen: activation_type=QuantType.QUInt8; or {QUANTIZE}",
        nodes=tuple(node.name for node, _ in found),
    )


def _never_negative(graph: Graph, node: Node) -> bool:
    if node.op in ("Relu", "Sigmoid", "HardSigmoid", "Softmax"):
        return True
    if node.op != "Clip":
        return False
    low = scalar(graph, node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get("min")
    return low is not None and float(low) >= 0


def saturated_ranges(seen: Seen) -> Finding | None:
    """Ranges that real images leave. ReLU6 and hard-sigmoid may be cut off where they end."""
    found = [each for each in seen.saturated if _cut_off(each) > SATURATED]
    if not found:
        return None
    worst = max(found, key=_cut_off)
    told = f"{len(found)} of {len(seen.saturated)} ranges cut off more than {100 * SATURATED:.0f} % of the numbers on "
    told += f"{worst.images} images; most in {short(worst.value)}: {100 * _cut_off(worst):.1f} % outside "
    told += f"{worst.low:.3g} to {worst.high:.3g}"
    return Finding(
        problem="saturated ranges",
        weight="wrong",
        evidence=told,
        costs="strong answers are cut off, and classes that live by them get confused",
        remedy=f"calibrate with images like these, prepared as for the network: {QUANTIZE}",
        nodes=tuple(each.value for each in found),
    )


def _cut_off(range_: Saturated) -> float:
    """The share of numbers outside, where no activation would have cut them off as well."""
    below = 0.0 if any(abs(range_.low - floor) <= 0.03 for floor in FLOORS) else range_.below
    above = 0.0 if any(abs(range_.high - knee) <= 0.03 * knee for knee in KNEES) else range_.above
    return below + above


def sums_beyond_16_bits(seen: Seen) -> Finding | None:
    """Weights that x86 processors without VNNI cut off: there two products of bytes are added in 16 bits.

    ONNX Runtime's documentation, "Quantize ONNX models", tells of it; LiteRT's kernels add in 32 bits everywhere.
    """
    graph = seen.graph
    if graph.format == "tflite":
        return None
    found: list[tuple[Node, int]] = []
    layers = 0
    for node in graph.works("Conv", "Gemm", "MatMul"):
        if int(node.attributes.get("group", 1)) > 1:
            continue  # depthwise kernels add in 32 bits
        weight = _signed_bytes(graph, node)
        if weight is None:
            continue
        layers += 1
        even = weight[..., : weight.shape[-1] // 2 * 2].astype(np.int64)
        greatest = int(np.abs(even.reshape(*even.shape[:-1], -1, 2).sum(axis=-1)).max(initial=0))
        if greatest > PAIR:
            found.append((node, greatest))
    if not found:
        return None
    worst = max(found, key=lambda pair: pair[1])
    told = f"in {len(found)} of {layers} layers two neighbouring weights are more than {PAIR} steps together; most in "
    told += f"{short(worst[0].name)}: {worst[1]}"
    return Finding(
        problem="sums beyond 16 bits",
        weight="note",
        evidence=told,
        costs="x86 processors without VNNI (AVX2, early AVX-512) cut such sums off: there it answers otherwise",
        remedy=f"weights that keep within 16 bits: {QUANTIZE}; or quantize_static(..., reduce_range=True)",
        nodes=tuple(node.name for node, _ in found),
    )


def _signed_bytes(graph: Graph, node: Node) -> NDArray[Any] | None:
    """Weights of a layer as int8, (..., taps, inputs), each output's apart; None where they are something else."""
    dequantize = graph.maker(node.inputs[1]) if len(node.inputs) > 1 else None
    if dequantize is None or dequantize.op != "DequantizeLinear":
        return None
    weight = graph.constants.get(dequantize.inputs[0])
    if weight is None or weight.dtype != np.int8:
        return None
    if node.op == "Conv":
        return np.moveaxis(weight, 1, -1)
    transposed = node.op == "Gemm" and bool(node.attributes.get("transB", 0))
    return weight if transposed else np.moveaxis(weight, -2, -1)


def convolutions_left_in_float(seen: Seen) -> Finding | None:
    """Layers whose weights are bytes and which ONNX Runtime computes in float nevertheless."""
    if seen.compiled is None:
        return None
    every = {node.name for node in seen.graph.nodes if node.op in COMPUTES and _reads_bytes(seen.graph, node)}
    found = [node for node in seen.compiled.graph.nodes if node.op in FLOAT_LAYERS and node.name in every]
    if not found:
        return None
    before = {node.name: mult_adds(seen.graph, node) for node in seen.graph.nodes if node.op in COMPUTES}
    total = sum(before.values())
    left = sum(before.get(node.name, 0) for node in found)
    told = f"{len(found)} of {len(every)} layers with weights in bytes run in float, first {short(found[0].name)}"
    told += f", {100 * left / total:.1f} % of the mult-adds" if total and left else ""
    return Finding(
        problem="convolutions left in float",
        weight="slow",
        evidence=told,
        costs="their bytes become floats for every image: slower than the float32 file",
        remedy="each needs QuantizeLinear and DequantizeLinear on its input and right behind it, and a bias of int32; "
        f"quantize_static(..., quant_format=QuantFormat.QDQ), or {QUANTIZE}",
        nodes=tuple(node.name for node in found),
    )


def _reads_bytes(graph: Graph, node: Node) -> bool:
    maker = graph.maker(node.inputs[1]) if len(node.inputs) > 1 else None
    return maker is not None and maker.op == "DequantizeLinear"


def float_islands(seen: Seen) -> Finding | None:
    """Operators in float between operators in bytes, and the part of the time that goes there."""
    if seen.compiled is None or not seen.is_int8:
        return None
    islands = _islands(seen.compiled)
    if not islands:
        return None
    nodes = [node for island in islands for node in island]
    ops = Counter(node.op for node in nodes)
    share = seen.compiled.share_of(nodes)
    borders = seen.compiled.share("QuantizeLinear", "DequantizeLinear")
    told = f"{len(islands)} {'island' if len(islands) == 1 else 'islands'} of float operators between bytes, "
    told += ", ".join(f"{op} ({count})" for op, count in ops.most_common(6))
    told += f"; {100 * share:.1f} % of the time here, and {100 * borders:.1f} % for turning bytes into floats and back"
    return Finding(
        problem="float islands",
        weight="slow",
        evidence=told,
        costs="a number that becomes a float and back between two layers costs more than the bytes save",
        remedy=f"activations that stay in bytes: {QUANTIZE}; attention has to stay in float, so look whether int8 is "
        "worth it: mobilenets bench FP32 INT8",
        nodes=tuple(node.name for node in nodes),
    )


def _islands(compiled: Compiled) -> list[list[Node]]:
    """Connected operators in float that read what was bytes and whose answer becomes bytes again."""
    graph = compiled.graph
    floats = {}
    for node in graph.nodes:
        seen = compiled.of(node)
        is_float = seen is not None and {*seen.takes[:1], *seen.gives[:1]} <= FLOATS
        if is_float and node.op not in ("QuantizeLinear", "DequantizeLinear"):
            floats[node.name] = node
    islands: list[list[Node]] = []
    done: set[str] = set()
    for name in floats:
        if name in done:
            continue
        island: list[Node] = []
        enters = leaves = False
        waiting = deque([floats[name]])
        done.add(name)
        while waiting:
            node = waiting.popleft()
            island.append(node)
            for value in node.inputs:
                before = graph.maker(value)
                if before is None:
                    continue
                enters |= before.name not in floats and _from_bytes(graph, before)
                if before.name in floats and before.name not in done:
                    done.add(before.name)
                    waiting.append(before)
            for after in (each for value in node.outputs for each in graph.readers(value)):
                leaves |= after.op == "QuantizeLinear"
                if after.name in floats and after.name not in done:
                    done.add(after.name)
                    waiting.append(after)
        if enters and leaves:
            islands.append(island)
    return islands


def _from_bytes(graph: Graph, node: Node) -> bool:
    """What makes floats of bytes that were computed; a weight is no such thing, and pixels are bytes by nature."""
    if node.op in ("DequantizeLinear", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul"):
        return bool(node.inputs) and node.inputs[0] not in graph.constants
    return False
