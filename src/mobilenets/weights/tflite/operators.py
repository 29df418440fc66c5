"""Operators -> values. What a MobileNet has no use for becomes `Other`, and matters only if an output needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError
from .file import FlatGraph, FlatOperator, refuse_file
from .values import (
    Affine,
    Conv,
    ConvKind,
    HardSwish,
    Image,
    Mean,
    Other,
    Padded,
    Pads,
    Sum,
    Turned,
    Unit,
    Value,
    affine,
    clip,
    is_vector,
    product,
    same_pads,
)

__all__ = ["ENDS", "READERS", "evaluate"]

Floats: TypeAlias = NDArray[np.float64]
INFINITY: Final = float("inf")
AS_STORED: Final = (0, 1, 2, 3)
CHANNELS_FIRST: Final = (0, 3, 1, 2)
ENDS: Final = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX")  # behind logits; they keep the order of the classes

CLIPS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"relu": (0.0, INFINITY), "relu6": (0.0, 6.0), "RELU": (0.0, INFINITY), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0)}
)


def evaluate(graph: FlatGraph) -> tuple[tuple[Value, ...], Image]:
    """What the outputs are, in terms of the image.

    Raises:
        FileFormatError: more than one input, one that is not an image, or operators that are not in order.
    """
    scene = Scene(graph)
    for operator in graph.operators:
        try:
            scene.run(operator)
        except FileFormatError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:  # operands that cannot be
            raise refuse_file(f"operator {operator.index} {operator.kind} cannot run ({error})") from error
    return tuple(scene.value(index) for index in graph.outputs), scene.image


class Scene:
    """The values of tensors as far as operators have run."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self._values: dict[int, Value] = {}
        self._constants: dict[int, Floats] = {}
        if len(graph.inputs) != 1:
            raise refuse_file(f"the graph has {len(graph.inputs)} inputs, an image network one")
        tensor = graph.tensors[graph.inputs[0]]
        if len(tensor.shape) != 4 or tensor.free or min(tensor.shape) < 1:
            raise refuse_file(
                f"the input {tensor.name!r} has shape {_shown(tensor.shape, free=tensor.free)}, not that of images of"
                " one size (N, H, W, C)"
            )
        _, first, second, third = tensor.shape
        planes = first in (1, 3) and third not in (1, 3)
        self.image = Image((second, third, first) if planes else (first, second, third))
        self._values[graph.inputs[0]] = Turned(-1, self.image, CHANNELS_FIRST) if planes else self.image

    def run(self, operator: FlatOperator) -> None:
        """Work out what an operator's outputs are."""
        if not operator.outputs:
            return
        out = operator.outputs[0]
        data = [index for index in operator.inputs if index >= 0]
        if operator.kind in MOVES and data and (constant := self.constant(data[0])) is not None:
            self._constants[out] = self._moved(operator, constant, out)
            return
        value = READERS[operator.kind](self, operator) if operator.kind in READERS else None
        if value is None or len(operator.outputs) > 1:
            value = self.other(operator)
        for index in operator.outputs:
            self._values[index] = value

    def value(self, index: int) -> Value:
        """The value of a tensor."""
        if index not in self._values:
            name = self.graph.tensors[index].name if index >= 0 else "left away"
            return Other(-1, f"the tensor {name!r}", (), "nothing computes it before it is used")
        return self._values[index]

    def constant(self, index: int) -> Floats | None:
        """The numbers of a constant tensor, also behind a dequantisation; None where it is computed."""
        if index < 0:
            return None
        if index not in self._constants:
            real = self.graph.tensors[index].real()
            if real is None:
                return None
            self._constants[index] = real
        return self._constants[index]

    def other(self, operator: FlatOperator, why: str = "") -> Other:
        """An operator that is not understood, with whatever it is made of."""
        of = tuple(self.value(i) for i in operator.inputs if i >= 0 and self.constant(i) is None)
        shape = self.graph.tensors[operator.outputs[0]].shape
        size = (shape[1], shape[2], shape[3]) if len(shape) == 4 else (0, 0, 0)
        return Other(operator.index, operator.kind, of, why, size)

    def _moved(self, operator: FlatOperator, constant: Floats, out: int) -> Floats:
        if operator.kind == "TRANSPOSE":
            order = self.constant(operator.inputs[1]) if len(operator.inputs) > 1 else None
            if order is None or sorted(order.tolist()) != list(range(constant.ndim)):
                raise refuse_file(f"operator {operator.index} TRANSPOSE has no order of axes")
            return constant.transpose(order.astype(int))
        shape = self.graph.tensors[out].shape
        if int(np.prod(shape, dtype=object)) != constant.size:
            raise refuse_file(f"operator {operator.index} {operator.kind} makes {shape} of {constant.shape}")
        return constant.reshape(shape)


Reader: TypeAlias = Callable[[Scene, FlatOperator], Value | None]


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
            if not laid.shape[1] == 1 or laid.shape[0] != inputs:
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
    return _fused(scene, operator, conv)


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


def _fused(scene: Scene, operator: FlatOperator, value: Value) -> Value:
    act = operator.options.get("act", "none")
    if act == "none":
        return value
    if act in CLIPS:
        return clip(operator.index, value, *CLIPS[act])
    return Other(operator.index, operator.kind, (value,), f"with the activation {act}", value.size)


def _dense(scene: Scene, operator: FlatOperator) -> Value | None:
    of, weight = scene.value(operator.inputs[0]), scene.constant(operator.inputs[1])
    if weight is None or isinstance(of, Turned | Other) or operator.options.get("transposed_x"):
        return None
    weight = weight.reshape(weight.shape[-2:]) if weight.ndim > 2 and weight.size == weight[0].size else weight
    if weight.ndim != 2 or operator.options.get("weights_format", 0) != 0:
        return scene.other(operator, f"a weight of shape {weight.shape}, wanted (out, in)")
    if operator.kind == "BATCH_MATMUL" and not operator.options.get("transposed_y"):
        weight = weight.T
    of = of if is_vector(of) else _flat(operator, of)
    if of is None or weight.shape[1] != of.size[2]:
        return scene.other(operator, f"a weight of shape {weight.shape} for no vector of {weight.shape[1]}")
    conv = Conv(
        at=operator.index,
        of=of,
        kind="conv",
        weight=weight[:, :, None, None],
        bias=_bias(scene, operator, weight.shape[0]),
        stride=1,
        dilation=1,
        pads=(0, 0, 0, 0),
        size=(1, 1, weight.shape[0]),
    )
    return _fused(scene, operator, conv)


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
    return _fused(scene, operator, Mean(operator.index, of))


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


def _elementwise(scene: Scene, operator: FlatOperator) -> Value | None:
    """ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM; with a constant on either side, or of two values."""
    left, right = operator.inputs[:2]
    constants = scene.constant(left), scene.constant(right)
    found: Value | None
    if constants[0] is None and constants[1] is None:
        found = _of_two(operator, scene.value(left), scene.value(right))
    else:
        of = scene.value(right if constants[1] is None else left)
        constant = constants[0] if constants[1] is None else constants[1]
        assert constant is not None
        found = _with_constant(operator, of, constant, first=constants[1] is None)
    return None if found is None else _fused(scene, operator, found)


def _of_two(operator: FlatOperator, left: Value, right: Value) -> Value | None:
    if isinstance(left, Turned) and isinstance(right, Turned) and left.order == right.order:
        inner = _of_two(operator, left.of, right.of)
        return None if inner is None else Turned(operator.index, inner, left.order)
    if isinstance(left, Turned | Other) or isinstance(right, Turned | Other):
        return None
    if operator.kind == "ADD" and left.size == right.size:
        return Sum(operator.index, left, right)
    if operator.kind == "MUL":
        return product(operator.index, left, right)
    return None


def _with_constant(operator: FlatOperator, of: Value, constant: Floats, *, first: bool) -> Value | None:
    """`first`: the constant stands on the left."""
    if isinstance(of, Other):
        return None
    if isinstance(of, Turned):
        turned = constant.reshape([1] * (4 - constant.ndim) + list(constant.shape))
        inner = _with_constant(operator, of.of, turned.transpose(np.argsort(of.order)), first=first)
        return None if inner is None else Turned(operator.index, inner, of.order)
    if constant.size not in (1, of.size[2]) or (constant.size > 1 and constant.shape[-1] != constant.size):
        return None
    numbers, at = constant.reshape(-1), operator.index
    match operator.kind:
        case "ADD":
            return affine(at, of, 1.0, numbers)
        case "SUB":
            return affine(at, of, -1.0, numbers) if first else affine(at, of, 1.0, -numbers)
        case "MUL":
            return affine(at, of, numbers, 0.0)
        case "DIV" if not first and numbers.all():
            return affine(at, of, 1 / numbers, 0.0)
        case "MAXIMUM" if numbers.size == 1:
            return clip(at, of, float(numbers[0]), INFINITY)
        case "MINIMUM" if numbers.size == 1:
            return clip(at, of, -INFINITY, float(numbers[0]))
        case _:
            return None


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
    if isinstance(inner, Image):
        return scene.other(operator, f"from {before} to {after}, wanted images as they are")
    return _flat(operator, inner)


def _unary(build: Callable[[int, Value], Value]) -> Reader:
    def read(scene: Scene, operator: FlatOperator) -> Value | None:
        of = scene.value(operator.inputs[0])
        if isinstance(of, Other):
            return None
        if isinstance(of, Turned):
            return Turned(operator.index, build(operator.index, of.of), of.order)
        return build(operator.index, of)

    return read


def _clipped(kind: str) -> Reader:
    return _unary(lambda at, of: clip(at, of, *CLIPS[kind]))


def _alike(scene: Scene, operator: FlatOperator) -> Value | None:
    """QUANTIZE, DEQUANTIZE, CAST: the same numbers in another type, to within its steps."""
    return scene.value(operator.inputs[0])


def _softmax(scene: Scene, operator: FlatOperator) -> Value | None:
    of, beta = scene.value(operator.inputs[0]), operator.options.get("beta", 1.0)
    scaled = of if beta in (0.0, 1.0) or isinstance(of, Other) else affine(operator.index, of, float(beta), 0.0)
    return Other(operator.index, operator.kind, (scaled,), size=of.size)


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
        **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"), _elementwise),
        "RELU": _clipped("RELU"),
        "RELU6": _clipped("RELU6"),
        "RELU_0_TO_1": _clipped("RELU_0_TO_1"),
        "HARD_SWISH": _unary(HardSwish),
        "L2_NORMALIZATION": _unary(Unit),
        "PAD": _pad,
        "PADV2": _pad,
        "TRANSPOSE": _transpose,
        "RESHAPE": _reshape,
        "SQUEEZE": _reshape,
        "EXPAND_DIMS": _reshape,
        "QUANTIZE": _alike,
        "DEQUANTIZE": _alike,
        "CAST": _alike,
        "SOFTMAX": _softmax,
    }
)


def _shown(shape: tuple[int, ...], *, free: bool) -> str:
    return f"{shape}" + (" with sides left free" if free else "")
