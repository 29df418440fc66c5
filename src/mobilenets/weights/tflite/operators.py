"""Operators -> values. What a MobileNet has no use for becomes `Other`, and matters only if an output needs it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from ...errors import FileFormatError
from .arithmetic import ARITHMETIC, fused
from .file import FlatGraph, FlatOperator, refuse_file
from .scene import AS_STORED, Floats, Reader, Scene
from .values import Conv, ConvKind, Image, Mean, Other, Padded, Pads, Turned, Value, affine, is_vector, same_pads

__all__ = ["ENDS", "READERS", "evaluate"]

ENDS: Final = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX")  # behind logits; they keep the order of the classes


def evaluate(graph: FlatGraph) -> tuple[tuple[Value, ...], Image]:
    """What the outputs are, in terms of the image.

    Raises:
        FileFormatError: more than one input, one that is not an image, or operators that are not in order.
    """
    scene = Scene(graph)
    for operator in graph.operators:
        try:
            _run(scene, operator)
        except FileFormatError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:  # operands that cannot be
            raise refuse_file(f"operator {operator.index} {operator.kind} cannot run ({error})") from error
    return tuple(scene.value(index) for index in graph.outputs), scene.image


def _run(scene: Scene, operator: FlatOperator) -> None:
    """Work out what an operator's outputs are."""
    if not operator.outputs:
        return
    out = operator.outputs[0]
    data = [index for index in operator.inputs if index >= 0]
    if operator.kind in MOVES and data and (constant := scene.constant(data[0])) is not None:
        scene.put_constant(out, _moved(scene, operator, constant))
        return
    value = READERS[operator.kind](scene, operator) if operator.kind in READERS else None
    if value is None or len(operator.outputs) > 1:
        value = scene.other(operator)
    scene.put(operator, value)


def _moved(scene: Scene, operator: FlatOperator, constant: Floats) -> Floats:
    """A constant behind an operator that only lays it out anew."""
    if operator.kind == "TRANSPOSE":
        order = scene.constant(operator.inputs[1]) if len(operator.inputs) > 1 else None
        if order is None or sorted(order.tolist()) != list(range(constant.ndim)):
            raise refuse_file(f"operator {operator.index} TRANSPOSE has no order of axes")
        return constant.transpose(order.astype(int))
    shape = scene.graph.tensors[operator.outputs[0]].shape
    if int(np.prod(shape, dtype=object)) != constant.size:
        raise refuse_file(f"operator {operator.index} {operator.kind} makes {shape} of {constant.shape}")
    return constant.reshape(shape)


def _conv(scene: Scene, operator: FlatOperator) -> Value | None:
    of, weight = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    if weight is None or weight.ndim != 4 or isinstance(of, Turned | Other):
        return None
    inputs = of.size[2]
    kind: ConvKind = "conv"
    if operator.kind == "DEPTHWISE_CONV_2D":  # stored (1, k, k, C * m)
        if inputs == 1:
            laid = weight.transpose(3, 0, 1, 2)  # of one channel, which is a full convolution
        elif weight.shape[3] == inputs:
            kind, laid = "depthwise", weight.transpose(3, 0, 1, 2)
        else:
            return scene.other(operator, f"a multiplier of {weight.shape[3] / inputs:g}, wanted 1")
    else:  # stored (out, k, k, in)
        laid = weight.transpose(0, 3, 1, 2)
        if laid.shape[1] != inputs:
            if laid.shape[1] != 1 or laid.shape[0] != inputs:
                return scene.other(operator, f"{inputs} channels for a weight of {laid.shape[1]}, in groups or wrongly")
            kind = "depthwise"
    options = operator.options
    strides = options.get("stride_h", 1), options.get("stride_w", 1)
    dilations = options.get("dilation_h", 1), options.get("dilation_w", 1)
    if laid.shape[2] != laid.shape[3] or strides[0] != strides[1] or dilations[0] != dilations[1]:
        return scene.other(operator, f"kernel {laid.shape[2:]}, strides {strides}, dilations {dilations}: not square")
    stride, dilation, kernel = int(strides[0]), int(dilations[0]), int(laid.shape[2])
    if stride < 1 or dilation < 1 or kernel < 1:
        return scene.other(operator, f"kernel {kernel}, stride {stride}, dilation {dilation}")
    pads: Pads = (0, 0, 0, 0)
    reach = dilation * (kernel - 1) + 1
    if options.get("padding", "same") == "same":
        vertical, horizontal = (same_pads(side, reach=reach, stride=stride) for side in of.size[:2])
        pads = (*vertical, *horizontal)
    height, width = ((of.size[i] + sum(pads[2 * i : 2 * i + 2]) - reach) // stride + 1 for i in (0, 1))
    if height < 1 or width < 1:
        return scene.other(operator, f"a map of {of.size[0]}x{of.size[1]} for a kernel of {reach}")
    conv = Conv(
        at=operator.index,
        of=of,
        kind=kind,
        weight=laid,
        bias=_bias(scene, operator, laid.shape[0]),
        stride=stride,
        dilation=dilation,
        pads=pads,
        size=(height, width, laid.shape[0]),
    )
    return fused(scene, operator, conv)


def _bias(scene: Scene, operator: FlatOperator, channels: int) -> Floats:
    index = operator.inputs[2] if len(operator.inputs) > 2 else -1
    bias = scene.constant(index)
    if bias is None:
        if index >= 0:
            raise refuse_file(f"operator {operator.index} {operator.kind} computes its bias")
        return np.zeros(channels)
    tensor = scene.graph.tensors[index]
    if tensor.type in ("int32", "int64") and tensor.scale.size == 0:
        # Old converters leave the bias' scale out; it is that of the products which it is added to.
        data, weight = (scene.graph.tensors[i] for i in operator.inputs[:2])
        if data.scale.size == 1 and weight.scale.size in (1, channels):
            bias = bias * data.scale[0] * weight.scale
    if bias.size != channels:
        raise refuse_file(f"operator {operator.index} {operator.kind} has a bias of {bias.size}, wanted {channels}")
    return bias.reshape(-1)


def _dense(scene: Scene, operator: FlatOperator) -> Value | None:
    of, weight = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    if weight is None or isinstance(of, Turned | Other) or operator.options.get("transposed_x"):
        return None
    weight = weight.reshape(weight.shape[-2:]) if weight.ndim > 2 and weight.size == weight[0].size else weight
    if weight.ndim != 2 or operator.options.get("weights_format", 0) != 0:
        return scene.other(operator, f"a weight of shape {weight.shape}, wanted (out, in)")
    if operator.kind == "BATCH_MATMUL" and not operator.options.get("transposed_y"):
        weight = weight.T
    vector = of if is_vector(of) else _flat(operator, of)
    if vector is None or weight.shape[1] != vector.size[2]:
        return scene.other(operator, f"a weight of shape {weight.shape} for no vector of {weight.shape[1]}")
    conv = Conv(
        at=operator.index,
        of=vector,
        kind="conv",
        weight=weight[:, :, None, None],
        bias=_bias(scene, operator, weight.shape[0]),
        stride=1,
        dilation=1,
        pads=(0, 0, 0, 0),
        size=(1, 1, weight.shape[0]),
    )
    return fused(scene, operator, conv)


def _flat(operator: FlatOperator, of: Value) -> Value | None:
    """A map of one pixel as a vector: its own mean."""
    return Mean(operator.index, of) if of.size[:2] == (1, 1) else None


def _average_pool(scene: Scene, operator: FlatOperator) -> Value | None:
    of, options = scene.value(operator.inputs[0]), operator.options
    if isinstance(of, Turned | Other):
        return None
    window = options.get("filter_h", 0), options.get("filter_w", 0)
    if window != of.size[:2]:
        return scene.other(operator, f"a window of {window} on a map of {of.size[:2]}, wanted the whole map")
    out = scene.graph.tensors[operator.outputs[0]].shape
    if len(out) == 4 and out[1:3] != (1, 1):
        return scene.other(operator, f"an output of {out[1]}x{out[2]} pixels, wanted one")
    return fused(scene, operator, Mean(operator.index, of))


def _reduce(scene: Scene, operator: FlatOperator) -> Value | None:
    of, axes = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    if axes is None or isinstance(of, Other):
        return None
    order = of.order if isinstance(of, Turned) else AS_STORED
    inner = of.of if isinstance(of, Turned) else of
    found = sorted(order[int(axis) % 4] for axis in axes.reshape(-1))
    if found != [1, 2] or is_vector(inner):
        return scene.other(operator, f"along axes {[int(axis) for axis in axes.reshape(-1)]}, wanted height and width")
    mean = Mean(operator.index, inner)
    if operator.kind == "SUM":
        return affine(operator.index, mean, float(inner.size[0] * inner.size[1]), 0.0)
    return mean


def _pad(scene: Scene, operator: FlatOperator) -> Value | None:
    of, sides = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    filled = scene.constant(operator.inputs[2]) if len(operator.inputs) > 2 else None
    if sides is None or sides.shape != (4, 2) or (len(operator.inputs) > 2 and (filled is None or filled.any())):
        return scene.other(operator, "wanted zeros around the map")
    if isinstance(of, Other):
        return None
    order = of.order if isinstance(of, Turned) else AS_STORED
    inner = of.of if isinstance(of, Turned) else of
    by_side = {order[i]: sides[i].astype(int) for i in range(4)}
    if by_side[0].any() or by_side[3].any() or min(side.min() for side in by_side.values()) < 0:
        return scene.other(operator, "wanted zeros around the map")
    padded = Padded(operator.index, inner, (*by_side[1].tolist(), *by_side[2].tolist()))
    return Turned(operator.index, padded, of.order) if isinstance(of, Turned) else padded


def _transpose(scene: Scene, operator: FlatOperator) -> Value | None:
    of, order = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    if order is None or isinstance(of, Other):
        return None
    if is_vector(of):
        return of
    if sorted(order.tolist()) != [0, 1, 2, 3]:
        return None
    before = of.order if isinstance(of, Turned) else AS_STORED
    inner = of.of if isinstance(of, Turned) else of
    after = tuple(before[int(side)] for side in order)
    return inner if after == AS_STORED else Turned(operator.index, inner, after)


def _reshape(scene: Scene, operator: FlatOperator) -> Value | None:
    """Vectors stay what they are however they lie; a map of one pixel becomes a vector."""
    of = scene.value(operator.inputs[0])
    if isinstance(of, Other):
        return None
    before, after = (scene.graph.tensors[i].shape for i in (operator.inputs[0], operator.outputs[0]))
    if is_vector(of) or before == after:
        return of
    inner = of.of if isinstance(of, Turned) else of
    flat = None if isinstance(inner, Image) else _flat(operator, inner)
    # Not `scene.other`: how the new shape is computed is not what is wrong.
    return flat or Other(operator.index, operator.kind, (of,), f"from {before} to {after}, and no vector")


MOVES: Final = ("DEQUANTIZE", "QUANTIZE", "CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")

READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        "CONV_2D": _conv,
        "DEPTHWISE_CONV_2D": _conv,
        "FULLY_CONNECTED": _dense,
        "BATCH_MATMUL": _dense,
        "AVERAGE_POOL_2D": _average_pool,
        "MEAN": _reduce,
        "SUM": _reduce,
        **ARITHMETIC,
        "PAD": _pad,
        "PADV2": _pad,
        "TRANSPOSE": _transpose,
        "RESHAPE": _reshape,
        "SQUEEZE": _reshape,
        "EXPAND_DIMS": _reshape,
    }
)
