"""Arithmetic of tensors -> values: element by element, with constants and of two maps; activations among it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from .file import FlatOperator
from .scene import Floats, Reader, Scene
from .values import HardSwish, Other, Sum, Turned, Unit, Value, affine, clip, product

__all__ = ["ARITHMETIC", "fused"]

INFINITY: Final = float("inf")
CLIPS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "relu": (0.0, INFINITY),
        "relu6": (0.0, 6.0),
        "RELU": (0.0, INFINITY),
        "RELU6": (0.0, 6.0),
        "RELU_0_TO_1": (0.0, 1.0),
    }
)


def fused(scene: Scene, operator: FlatOperator, value: Value) -> Value:
    """A value with the activation that an operator has within itself."""
    act = operator.options.get("act", "none")
    if act == "none":
        return value
    if act in CLIPS:
        return clip(operator.index, value, *CLIPS[act])
    return Other(operator.index, operator.kind, (value,), f"with the activation {act}", value.size)


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
    return None if found is None else fused(scene, operator, found)


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
    """QUANTIZE, DEQUANTIZE, CAST, FAKE_QUANT: the same numbers in another type, to within its steps."""
    return scene.value(operator.inputs[0])


def _softmax(scene: Scene, operator: FlatOperator) -> Value | None:
    of, beta = scene.value(operator.inputs[0]), operator.options.get("beta", 1.0)
    scaled = of if beta in (0.0, 1.0) or isinstance(of, Other) else affine(operator.index, of, float(beta), 0.0)
    return Other(operator.index, operator.kind, (scaled,), size=of.size)


ARITHMETIC: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"), _elementwise),
        "RELU": _clipped("RELU"),
        "RELU6": _clipped("RELU6"),
        "RELU_0_TO_1": _clipped("RELU_0_TO_1"),
        "HARD_SWISH": _unary(HardSwish),
        "L2_NORMALIZATION": _unary(Unit),
        "QUANTIZE": _alike,
        "DEQUANTIZE": _alike,
        "CAST": _alike,
        "FAKE_QUANT": _alike,
        "SOFTMAX": _softmax,
    }
)
