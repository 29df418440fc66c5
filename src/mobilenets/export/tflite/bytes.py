"""How the operators of a quantised ONNX graph become LiteRT's, in bytes as they are.

Between a QuantizeLinear and the DequantizeLinear behind it lies a byte, and an operator between those two is LiteRT's
int8 operator: int8 activations with one zero, int8 filters with a step per output channel and zero 0, int32 biases of
step (input's times filter's), as TensorFlow Lite's specification of 8 bits has them. ONNX's bytes are uint8: q there is
q - 128 here, and stands for the same number. Clips at the ends of a range need no operator, for bytes end there anyhow.
What stands between floats in ONNX does so here, with DEQUANTIZE and QUANTIZE around it.

Hard-swish is a sum cut at six and a product: x relu6(x + 3), six times what it should be, and XNNPACK computes both.
LiteRT's own HARD_SWISH of bytes is no operator of XNNPACK's, and off ARM it is computed number by number
(`docs/log.md`). The sixth would cost a pass over the image. So the number is left as it is, and said to be: its value
is `times` 6, which the filters that read it take back in their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ...errors import SpecError
from ..int8.ranges import KNEE, Scale
from ..int8.weights import GREATEST
from .file import Steps
from .operators import convolution_of, convolved, filters_of, padded
from .translation import Fixed, Translation, Value

__all__ = ["BYTE_OPERATORS", "stays_bytes"]

SIGN: Final = 128  # between uint8 and int8
SWISH_TIMES: Final = 6.0
GREATEST_RATIO: Final = 128.0  # of a product's step to its output's; XNNPACK refuses 256
COMPUTED: Final = frozenset({"Conv", "Gemm", "Add", "Mul", "GlobalAveragePool"})


def stays_bytes(work: Translation, node: Any) -> bool:
    """Whether a node reads and makes bytes, or is one of the two that lie between bytes and floats."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return True
    if node.op_type == "Clip":
        value = work.values.get(node.input[0])
        return value is not None and value.scale is not None
    if node.op_type == "Cast":
        return _centring(work, node) is not None
    return (
        node.op_type in COMPUTED
        and work.only_user(node.output[0], "QuantizeLinear") is not None
        and all(_is(work, name, "DequantizeLinear") for name in node.input)
    )


def _is(work: Translation, name: str, kind: str) -> bool:
    maker = work.makers.get(name)
    return maker is not None and maker.op_type == kind


def _scale(work: Translation, node: Any) -> Scale:
    """Of a QuantizeLinear or DequantizeLinear of values, for int8."""
    step, zero = (work.constants[name] for name in node.input[1:])
    return Scale(step=float(step.item()), zero=int(zero.item()) - SIGN)


def _rounded(work: Translation, name: str) -> tuple[str, Scale]:
    """What becomes of a value that is rounded at once: the rounded value's name, and its bytes."""
    (rounding,) = work.users(name)
    return work.take_in(rounding), _scale(work, rounding)


def _widened(scale: Scale, times: float) -> Scale:
    return Scale(step=scale.step * times, zero=scale.zero)


def _quantize(work: Translation, node: Any) -> None:
    value, name = work.values[node.input[0]], node.output[0]
    made = work.stored_bytes(name, value.shape, value.layout, _scale(work, node))
    work.file.add("QUANTIZE", [value.tensor], made.tensor, table="QuantizeOptions")
    work.values[name] = made


def _dequantize(work: Translation, node: Any) -> None:
    source, name = node.input[0], node.output[0]
    if source in work.constants:
        _fix(work, node)
        return
    value = work.values[source]
    if value.scale is None:
        scale = _scale(work, node)
        work.file.read_as(value.tensor, Steps(np.array([scale.step], np.float32), zero=scale.zero + SIGN))
        value = _signed(work, source, value, scale)
    work.in_bytes[name] = value
    users = work.users(name)
    if users and all(stays_bytes(work, user) for user in users):
        return
    value = _once(work, name, value)
    made = work.stored(name, value.shape, value.layout)
    work.file.add("DEQUANTIZE", [value.tensor], made.tensor, table="DequantizeOptions", version=2)
    work.values[name] = made


def _fix(work: Translation, node: Any) -> None:
    """Weights or biases; a float operator may read them too."""
    numbers, steps = (work.constants[name] for name in node.input[:2])
    name = node.output[0]
    steps = np.broadcast_to(steps.reshape(-1), numbers.shape[:1]).astype(np.float32)
    work.fixed[name] = Fixed(numbers=numbers, steps=steps)
    wide = steps.reshape(-1, *[1] * (numbers.ndim - 1))
    work.constants[name] = (numbers.astype(np.float64) * wide).astype(np.float32)


def _signed(work: Translation, name: str, value: Value, scale: Scale) -> Value:
    """Pixels, uint8, as int8 of the same numbers."""
    made = work.stored_bytes(f"{name}.signed", value.shape, value.layout, scale)
    work.file.add("QUANTIZE", [value.tensor], made.tensor, table="QuantizeOptions")
    return made


def _centring(work: Translation, node: Any) -> tuple[Any, Any, Any] | None:
    """Where a mean per channel is taken from the pixels: the sum, the transposition and the rounding behind a Cast."""
    add = work.only_user(node.output[0], "Add")
    turn = work.only_user(add.output[0], "Transpose") if add is not None else None
    rounding = work.only_user(turn.output[0], "QuantizeLinear") if turn is not None else None
    value = work.values.get(node.input[0])
    if add is None or turn is None or rounding is None or value is None or value.layout != "plain":
        return None
    return add, turn, rounding


def _centred(work: Translation, node: Any) -> None:
    """In bytes too: one byte less for all channels, which is another reading of them, plus what is left of each."""
    found = _centring(work, node)
    assert found is not None  # `stays_bytes` has asked
    add, turn, rounding = found
    moved = work.constants[add.input[1]].astype(np.float64)
    middle = float(np.clip(np.rint(-moved.mean()), 0, 255))
    rest = moved + middle
    step = max(float(np.abs(rest).max()) / GREATEST, 1e-6)
    value = work.values[node.input[0]]
    work.file.read_as(value.tensor, Steps(np.ones(1, np.float32), zero=int(middle)))
    pixels = _signed(work, node.name, value, Scale(step=1.0, zero=int(middle) - SIGN))
    line = work.file.constant(
        add.input[1], np.rint(rest / step).astype(np.int8), steps=Steps(np.array([step], np.float32))
    )
    for taken in (add, turn):
        work.take_in(taken)
    name = work.take_in(rounding)
    made = work.stored_bytes(name, work.shapes[turn.output[0]], "pixels", _scale(work, rounding))
    none = work.file.activation("NONE")
    inputs = [pixels.tensor, line]
    work.file.add("ADD", inputs, made.tensor, table="AddOptions", fusedActivationFunction=none, version=2)
    work.values[name] = made


def _weights(work: Translation, node: Any, value: Value, scale: Scale, *, axis: int) -> tuple[Fixed, Steps, int]:
    """What an operator multiplies with: ONNX's filters, their steps in the file, and the tensor of the bias.

    Steps are less by as much as the input is `times` greater. A filter of nothing but zeros has any step at all, and
    gets one that XNNPACK takes.
    """
    filters, bias = work.fixed[node.input[1]], work.fixed[node.input[2]]
    assert value.scale is not None
    steps = filters.steps / value.times
    empty = ~filters.numbers.reshape(len(steps), -1).any(axis=1)
    steps = np.where(empty, np.minimum(steps, GREATEST_RATIO * scale.step / value.scale.step), steps).astype(np.float32)
    unit = value.scale.step * steps.astype(np.float64)
    limits = np.iinfo(np.int32)
    numbers = np.clip(np.rint(bias.numbers * (bias.steps / unit)), limits.min, limits.max).astype(np.int32)
    tensor = work.file.constant(node.input[2], numbers, steps=Steps(unit.astype(np.float32)))
    return filters, Steps(steps, axis=axis), tensor


def _conv(work: Translation, node: Any) -> None:
    attributes, value = convolution_of(node), work.in_bytes[node.input[0]]
    if value.layout != "pixels":
        raise SpecError(f"{node.name} reads bytes lying {value.layout}", wanted="by pixels", do="transpose before it")
    name, scale = _rounded(work, node.output[0])
    depthwise = attributes["group"] > 1
    fixed, steps, bias = _weights(work, node, value, scale, axis=3 if depthwise else 0)
    filters = work.file.constant(node.input[1], filters_of(node, fixed.numbers, attributes), steps=steps)
    value, padding = padded(work, value, node.name, attributes)
    made = work.stored_bytes(name, work.shapes[node.output[0]], "pixels", scale)
    convolved(work, [value.tensor, filters, bias], made, attributes, padding=padding, version=3)
    work.values[name] = made


def _gemm(work: Translation, node: Any) -> None:
    value = work.in_bytes[node.input[0]]
    name, scale = _rounded(work, node.output[0])
    fixed, steps, bias = _weights(work, node, value, scale, axis=0)
    filters = work.file.constant(node.input[1], fixed.numbers, steps=steps)
    made = work.stored_bytes(name, work.shapes[node.output[0]], "plain", scale)
    work.file.add(
        "FULLY_CONNECTED",
        [value.tensor, filters, bias],
        made.tensor,
        table="FullyConnectedOptions",
        fusedActivationFunction=work.file.activation("NONE"),
        version=4,
    )
    work.values[name] = made


def _pool(work: Translation, node: Any) -> None:
    """A mean over all pixels, and the Flatten behind it, which ONNX rounds once more to the same bytes."""
    value = work.in_bytes[node.input[0]]
    name, scale = _rounded(work, node.output[0])
    read = work.only_user(name, "DequantizeLinear")
    flat = work.only_user(read.output[0], "Flatten") if read is not None else None
    again = work.only_user(flat.output[0], "QuantizeLinear") if flat is not None else None
    channels = value.shape[0]
    if read is not None and flat is not None and again is not None and _scale(work, again) == scale:
        for taken in (read, flat):
            work.take_in(taken)
        name = work.take_in(again)
        made = work.stored_bytes(name, (channels,), "plain", _widened(scale, value.times), times=value.times)
    else:
        flat = None
        made = work.stored_bytes(name, (channels, 1, 1), "pixels", _widened(scale, value.times), times=value.times)
    axes = work.file.constant(f"{name}.axes", np.array([1, 2], np.int32))
    work.file.add("MEAN", [value.tensor, axes], made.tensor, table="ReducerOptions", keepDims=flat is None, version=2)
    work.values[name] = made


def _once(work: Translation, name: str, value: Value) -> Value:
    """The same bytes, standing for ONNX's own numbers."""
    if value.times == 1 or value.scale is None:
        return value
    step = np.array([1 / value.times / GREATEST], np.float32)
    factor = work.file.constant(f"{name}.once.factor", np.array([GREATEST], np.int8), steps=Steps(step))
    made = work.stored_bytes(f"{name}.once", value.shape, value.layout, _widened(value.scale, 1 / value.times))
    return _multiplied(work, value, Value(factor, (1,), "plain", scale=Scale(float(step[0]), 0)), made)


def _sum(work: Translation, node: Any) -> None:
    values = [_once(work, name, work.in_bytes[name]) for name in node.input]
    name, scale = _rounded(work, node.output[0])
    made = work.stored_bytes(name, work.shapes[node.output[0]], values[0].layout, scale)
    none = work.file.activation("NONE")
    inputs = [value.tensor for value in values]
    work.file.add("ADD", inputs, made.tensor, table="AddOptions", fusedActivationFunction=none, version=2)
    work.values[name] = made


def _product(work: Translation, node: Any) -> None:
    left, right = (work.in_bytes[name] for name in node.input)
    name, scale = _rounded(work, node.output[0])
    times = left.times * right.times
    made = work.stored_bytes(name, work.shapes[node.output[0]], left.layout, _widened(scale, times), times=times)
    work.values[name] = _multiplied(work, left, right, made)


def _multiplied(work: Translation, left: Value, right: Value, made: Value) -> Value:
    assert left.scale is not None
    assert right.scale is not None
    assert made.scale is not None
    version = 3 if left.scale.step * right.scale.step >= made.scale.step else 2
    none = work.file.activation("NONE")
    inputs = [left.tensor, right.tensor]
    work.file.add("MUL", inputs, made.tensor, table="MulOptions", fusedActivationFunction=none, version=version)
    return made


def _swish(work: Translation, node: Any) -> None:
    """From the clip of bytes on, which stands for the second factor of a hard-swish: see `int8.bytes`."""
    value = work.values[node.input[0]]
    read = work.only_user(node.output[0], "DequantizeLinear")
    product = work.only_user(read.output[0], "Mul") if read is not None else None
    if read is None or product is None or value.scale is None or value.times != 1:
        raise SpecError(f"{node.name} is a clip of bytes outside hard-swish", wanted="no other", do="write it anew")
    for taken in (read, product):
        work.take_in(taken)
    knee = round(KNEE / value.scale.step)
    steps = Steps(np.array([value.scale.step], np.float32))
    three = work.file.constant(f"{node.name}.three", np.array([knee], np.int8), steps=steps)
    gate = work.stored_bytes(node.name, value.shape, value.layout, Scale(value.scale.step, -SIGN))
    relu6 = work.file.activation("RELU6")
    work.file.add(
        "ADD", [value.tensor, three], gate.tensor, table="AddOptions", fusedActivationFunction=relu6, version=2
    )
    name, scale = _rounded(work, product.output[0])
    made = work.stored_bytes(name, value.shape, value.layout, _widened(scale, SWISH_TIMES), times=SWISH_TIMES)
    work.values[name] = _multiplied(work, value, gate, made)


BYTE_OPERATORS: Mapping[str, Callable[[Translation, Any], None]] = MappingProxyType(
    {
        "Add": _sum,
        "Cast": _centred,
        "Clip": _swish,
        "Conv": _conv,
        "DequantizeLinear": _dequantize,
        "Gemm": _gemm,
        "GlobalAveragePool": _pool,
        "Mul": _product,
        "QuantizeLinear": _quantize,
    }
)
