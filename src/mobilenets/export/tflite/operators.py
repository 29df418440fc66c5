"""How each ONNX operator of our graphs becomes LiteRT's. Known are those forms only that our graphs take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import SpecError
from .translation import Layout, Translation, Value

__all__ = ["OPERATORS", "convolution_of", "convolved", "filters_of", "padded"]

THREE: Final = 3.0  # hard sigmoid is relu6(x + 3) / 6


def attributes_of(node: Any) -> dict[str, Any]:
    """Of a node, by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _activation(work: Translation, name: str) -> tuple[str, str]:
    """The activation that LiteRT does at the end of the operator that computes `name`, and the value behind it."""
    user = work.only_user(name, "Relu", "Clip")
    if user is None:
        return "NONE", name
    if user.op_type == "Relu":
        return "RELU", work.take_in(user)
    return ("RELU6", work.take_in(user)) if _bounds(work, user) == (0.0, 6.0) else ("NONE", name)


def _bounds(work: Translation, clip: Any) -> tuple[float, ...]:
    return tuple(work.constants[bound].item() for bound in clip.input[1:])


def _conv(work: Translation, node: Any) -> None:
    attributes = convolution_of(node)
    value = work.as_pixels(node.input[0])
    weight, bias = (work.constants[name] for name in node.input[1:])
    name = node.output[0]
    shape = work.shapes[name]
    gate = work.only_user(name, "HardSigmoid")
    if gate is not None:  # its sum goes into the bias, its bounds are an activation that convolutions do
        activation, bias = "RELU6", bias + np.float32(THREE)
        name = f"{work.take_in(gate)}.sixfold"
    else:
        activation, name = _activation(work, name)
    value, padding = padded(work, value, node.name, attributes)
    made = work.stored(name, shape, "pixels")
    inputs = [
        value.tensor,
        work.weight(node.input[1], filters_of(node, weight, attributes)),
        work.file.constant(node.input[2], bias.astype(np.float32)),
    ]
    convolved(work, inputs, made, attributes, padding=padding, activation=activation)
    if gate is not None:
        made = _times(work, gate.output[0], made, 1 / 6)
        name = gate.output[0]
    work.values[name] = made


def convolution_of(node: Any) -> dict[str, Any]:
    """The attributes of a convolution, with ONNX's defaults where it says nothing."""
    return {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "group": 1, **attributes_of(node)}


def filters_of(node: Any, weight: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """ONNX's filters (out, in, H, W) as LiteRT has them: (out, H, W, in), or (1, H, W, out) if each reads one channel.

    Raises:
        SpecError: they read some channels each.
    """
    if attributes["group"] == 1:
        return weight.transpose(0, 2, 3, 1)
    if attributes["group"] != weight.shape[0] or weight.shape[1] != 1:
        raise SpecError(
            f"{node.name} has {attributes['group']} groups", wanted="one, or one per channel", do="write it so"
        )
    return weight.transpose(1, 2, 3, 0)


def convolved(
    work: Translation,
    inputs: Sequence[int],
    made: Value,
    attributes: Mapping[str, Any],
    *,
    padding: str,
    activation: str = "NONE",
    version: int = 1,
) -> None:
    """Append a convolution of `inputs`: image, filters, bias."""
    depthwise = attributes["group"] > 1
    (stride, _), (dilation, _) = attributes["strides"], attributes["dilations"]
    options = {
        "padding": work.file.padding(padding),
        "strideH": stride,
        "strideW": stride,
        "dilationHFactor": dilation,
        "dilationWFactor": dilation,
        "fusedActivationFunction": work.file.activation(activation),
        **({"depthMultiplier": 1, "table": "DepthwiseConv2DOptions"} if depthwise else {"table": "Conv2DOptions"}),
    }
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    work.file.add(kind, inputs, made.tensor, version=version, **options)


def padded(work: Translation, value: Value, name: str, attributes: Mapping[str, Any]) -> tuple[Value, str]:
    """What a convolution reads, and the padding it does itself: LiteRT knows none, or TensorFlow's SAME."""
    top, left, bottom, right = attributes["pads"]
    (kernel, _), (stride, _), (dilation, _) = (attributes[key] for key in ("kernel_shape", "strides", "dilations"))
    channels, height, width = value.shape
    if not any(attributes["pads"]):
        return value, "VALID"
    reach = dilation * (kernel - 1) + 1
    totals = [max((-(-side // stride) - 1) * stride + reach - side, 0) for side in (height, width)]
    if [(top, bottom), (left, right)] == [(total // 2, total - total // 2) for total in totals]:
        return value, "SAME"
    shape = (channels, height + top + bottom, width + left + right)
    named = f"{name}.padded"
    if value.scale is None:
        made = work.stored(named, shape, "pixels")
    else:
        made = work.stored_bytes(named, shape, "pixels", value.scale, times=value.times)
    pads = work.file.constant(f"{name}.pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    version = 1 if value.scale is None else 2
    work.file.add("PAD", [value.tensor, pads], made.tensor, table="PadOptions", version=version)
    return made, "VALID"


def _times(work: Translation, name: str, value: Value, factor: float) -> Value:
    made = work.stored(name, value.shape, value.layout)
    by = work.file.constant(f"{name}.factor", np.array(factor, np.float32))
    none = work.file.activation("NONE")
    work.file.add("MUL", [value.tensor, by], made.tensor, table="MulOptions", fusedActivationFunction=none)
    return made


def _normalised(work: Translation, node: Any) -> bool:
    """Whether a product is the first half of (pixels * scale + shift), the input of the first convolution.

    Then the scale goes into that convolution's weights, and a sum is left: pixels + shift / scale, zero where the
    convolution pads, as before. Its constant is as long as a line of the image, for three numbers at a time are slow:
    0.25 ms of an image of 224 pixels, where all of V3-Small takes one.
    """
    shift = work.only_user(node.output[0], "Add")
    conv = work.only_user(shift.output[0], "Conv") if shift is not None else None
    if shift is None or conv is None:
        return False
    channels, _, width = work.shapes[node.output[0]]
    scale, moved = (
        np.broadcast_to(work.constants[each.input[1]].astype(np.float64).reshape(-1), channels)
        for each in (node, shift)
    )
    weight = work.constants[conv.input[1]]
    work.constants[conv.input[1]] = (weight * scale.reshape(1, -1, 1, 1)).astype(np.float32)
    line = np.broadcast_to(moved / scale, (1, 1, width, channels))
    work.constants[shift.input[1]] = np.ascontiguousarray(line, np.float32)
    work.values[node.output[0]] = work.as_pixels(node.input[0])
    return True


def _product(work: Translation, node: Any) -> None:
    if node.input[1] not in work.constants or not _normalised(work, node):
        _pairwise("MUL", "MulOptions")(work, node)


def _pairwise(kind: str, table: str) -> Callable[[Translation, Any], None]:
    def write(work: Translation, node: Any) -> None:
        values = [work.values[name] for name in node.input if name in work.values]
        layout: Layout = "pixels" if any(value.layout == "pixels" for value in values) else "plain"
        inputs = [work.operand(name, layout) for name in node.input]
        shape = work.shapes[node.output[0]]
        activation, name = _activation(work, node.output[0])
        made = work.stored(name, shape, layout)
        work.file.add(kind, inputs, made.tensor, table=table, fusedActivationFunction=work.file.activation(activation))
        work.values[name] = made

    return write


def _elementwise(kind: str, table: str, **options: Any) -> Callable[[Translation, Any], None]:
    def write(work: Translation, node: Any) -> None:
        value = work.values[node.input[0]]
        made = work.stored(node.output[0], value.shape, value.layout)
        work.file.add(kind, [value.tensor], made.tensor, table=table, **options)
        work.values[node.output[0]] = made

    return write


def _clip(work: Translation, node: Any) -> None:
    if _bounds(work, node) == (0.0, 1.0):  # a gate in a row that stays float32 where the others are bytes
        _elementwise("RELU_0_TO_1", "NONE")(work, node)
        return
    raise SpecError(
        f"{node.name} bounds a value that no convolution computes",
        wanted="relu6 behind a convolution, sum or matrix",
        do="write it as such",
    )


def _cast(work: Translation, node: Any) -> None:
    value = work.values[node.input[0]]
    made = work.stored(node.output[0], value.shape, value.layout)
    work.file.add("CAST", [value.tensor], made.tensor, table="CastOptions")
    work.values[node.output[0]] = made


def _gelu(work: Translation, node: Any) -> None:
    """The five nodes of x / 2 * (1 + erf(x / sqrt 2)), of which the division is the first."""
    end = node
    for kind in ("Erf", "Add", "Mul", "Mul"):
        user = work.only_user(end.output[0], kind)
        if user is None:
            raise SpecError(f"{node.name} is a division outside GELU", wanted="no other division", do="write it anew")
        end = user
        work.take_in(end)
    value = work.values[node.input[0]]
    made = work.stored(end.output[0], value.shape, value.layout)
    work.file.add("GELU", [value.tensor], made.tensor, table="GeluOptions", approximate=False)
    work.values[end.output[0]] = made


def _pool(work: Translation, node: Any) -> None:
    value = work.as_pixels(node.input[0])
    flat = work.only_user(node.output[0], "Flatten")
    name = work.take_in(flat) if flat is not None else node.output[0]
    shape = (value.shape[0],) if flat is not None else (value.shape[0], 1, 1)
    made = work.stored(name, shape, "plain" if flat is not None else "pixels")
    axes = work.file.constant(f"{name}.axes", np.array([1, 2], np.int32))
    work.file.add("MEAN", [value.tensor, axes], made.tensor, table="ReducerOptions", keepDims=flat is None)
    work.values[name] = made


def _gemm(work: Translation, node: Any) -> None:
    value = work.as_plain(node.input[0])
    weight, bias = (work.constants[name] for name in node.input[1:])
    shape = work.shapes[node.output[0]]
    activation, name = _activation(work, node.output[0])
    made = work.stored(name, shape, "plain")
    inputs = [value.tensor, work.weight(node.input[1], weight), work.file.constant(node.input[2], bias)]
    work.file.add(
        "FULLY_CONNECTED",
        inputs,
        made.tensor,
        table="FullyConnectedOptions",
        fusedActivationFunction=work.file.activation(activation),
    )
    work.values[name] = made


def _transpose(work: Translation, node: Any) -> None:
    """None is written here: a transposition changes how ONNX sees a value, and the layout says that as well."""
    order = tuple(attributes_of(node)["perm"])
    value, name = work.values[node.input[0]], node.output[0]
    shape = work.shapes[name]
    if order == (0, 3, 1, 2) and value.layout == "plain":
        work.values[name] = Value(tensor=value.tensor, shape=shape, layout="pixels")
    elif order == (0, 1, 3, 2) and value.layout in ("rows", "plain"):
        turned: Layout = "plain" if value.layout == "rows" else "rows"
        work.values[name] = Value(tensor=value.tensor, shape=shape, layout=turned)
    else:
        raise SpecError(f"{node.name} transposes by {order}", wanted="(0, 3, 1, 2) or (0, 1, 3, 2)", do="write it so")


def _reshape(work: Translation, node: Any) -> None:
    """Between the pixels of a map and the rows of an attention's heads; of one head, the memory is the same."""
    value, name = work.values[node.input[0]], node.output[0]
    shape = work.shapes[name]
    if value.layout == "pixels" and len(shape) == 3 and shape[0] * shape[1] == value.shape[0]:
        heads, width, places = shape
        rows = Value(tensor=-1, shape=shape, layout="rows")
        if heads == 1:
            work.values[name] = work.reshaped(name, value, rows)
            return
        apart = work.reshaped(f"{name}.apart", value, Value(tensor=-1, shape=(places, heads, width), layout="plain"))
        work.values[name] = work.transposed(name, apart, (0, 2, 1, 3), rows)
    elif value.layout == "rows" and len(shape) == 3:
        heads, width, places = value.shape
        together = Value(tensor=-1, shape=(places, heads, width), layout="plain")
        if heads > 1:
            value = work.transposed(f"{name}.together", value, (0, 2, 1, 3), together)
        work.values[name] = work.reshaped(name, value, Value(tensor=-1, shape=shape, layout="pixels"))
    else:
        raise SpecError(
            f"{node.name} reshapes {value.layout} {value.shape} to {shape}", wanted="heads", do="write it so"
        )


def _matmul(work: Translation, node: Any) -> None:
    """Batched; a side that lies by rows is multiplied as its transpose, which costs nothing."""
    left, right = (work.values[name] for name in node.input)
    made = work.stored(node.output[0], work.shapes[node.output[0]], "plain")
    work.file.add(
        "BATCH_MATMUL",
        [left.tensor, right.tensor],
        made.tensor,
        table="BatchMatMulOptions",
        adjX=left.layout == "rows",
        adjY=right.layout == "rows",
    )
    work.values[node.output[0]] = made


OPERATORS: Mapping[str, Callable[[Translation, Any], None]] = MappingProxyType(
    {
        "Add": _pairwise("ADD", "AddOptions"),
        "Cast": _cast,
        "Clip": _clip,
        "Conv": _conv,
        "Div": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": _pool,
        "HardSwish": _elementwise("HARD_SWISH", "HardSwishOptions"),
        "MatMul": _matmul,
        "Mul": _product,
        "Reshape": _reshape,
        "Softmax": _elementwise("SOFTMAX", "SoftmaxOptions", beta=1.0),
        "Transpose": _transpose,
    }
)
