"""Why a part takes the time it takes, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..records import Precision
from .places import SQUEEZE_EXCITE
from .records import OperatorTime, Peaks
from .table import LayerNeeds

__all__ = ["CONVERSIONS", "reason"]

# Operators that change how numbers are written or laid out, and compute nothing.
CONVERSIONS: Final = frozenset(
    {
        *("ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "Cast", "Transpose"),
        *("Reorder", "Convert", "FakeQuantize"),
    }
)
PRODUCTS: Final = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Convolution", "FullyConnected")
SMALL: Final = 0.3  # of a part's time: what takes less is not its reason
HALF: Final = 0.5
EXTRA: Final = 2.0  # times the bytes that the table needs
MOST: Final = 2  # reasons that are told


def reason(
    operators: Sequence[OperatorTime],
    layers: Sequence[LayerNeeds],
    peaks: Peaks,
    *,
    engine: str,
    precision: Precision,
    least_ms: float,
    memory_ms: float,
) -> str:
    """The one or two things that explain most of a part's time.

    Args:
        operators: that ran in it.
        layers: of the table that it consists of; none for what lies outside the rows.
        peaks: of the machine.
        engine: that ran it.
        precision: of the artifact.
        least_ms: the part's roofline.
        memory_ms: the least time for its bytes alone.
    """
    whole = sum(each.ms for each in operators)
    if whole <= 0:
        return "took no time that the engine's counter shows"
    told: list[str] = []

    def share(chosen: Sequence[OperatorTime]) -> float:
        return sum(each.ms for each in chosen) / whole

    floats = [each for each in operators if _left_in_floats(each, precision)]
    plain = [each for each in operators if each.fell_back]
    moves = [each for each in operators if each.kind in CONVERSIONS]
    gates = [each for each in operators if SQUEEZE_EXCITE in each.name and each.kind not in CONVERSIONS]
    if share(plain) >= SMALL:
        told.append(f"fell back: {_percent(share(plain))} in plain kernels ({_kinds(plain)})")
    if share(floats) >= SMALL:
        told.append(f"float32 in an int8 file: {_percent(share(floats))} ({_kinds(floats)})")
    if share(moves) >= SMALL:
        told.append(f"conversions between formats: {_percent(share(moves))} ({_kinds(moves)})")
    mult_adds = sum(layer.mult_adds for layer in layers)
    gemm_ms = peaks.gemm_ms(mult_adds, precision)
    if layers and max(least_ms, gemm_ms, memory_ms) >= HALF * whole:
        if gemm_ms >= memory_ms:
            told.append(f"compute-bound: {_percent(min(gemm_ms / whole, 1))} of the GEMM peak")
        else:
            told.append(f"memory-bound: its bytes explain {_percent(min(memory_ms / whole, 1))} of the time")
    if share(gates) >= SMALL:
        told.append(f"squeeze-excite: {_percent(share(gates))} in {len(gates)} operators")
    idle = peaks.operator_ms.get(engine, 0.0) * len(operators)
    if idle >= HALF * whole:
        told.append(f"overhead: {len(operators)} operators of {1000 * whole / len(operators):.0f} us, small maps")
    if not told and layers:
        told += _else(operators, layers, whole=whole, gemm_ms=gemm_ms, memory_ms=memory_ms)
    if not told:
        told.append(f"mostly {_kinds(operators)}")
    return "; ".join(told[:MOST])


def _else(
    operators: Sequence[OperatorTime], layers: Sequence[LayerNeeds], *, whole: float, gemm_ms: float, memory_ms: float
) -> list[str]:
    """What can be said of a part that is near to no bound."""
    far = f"at {_percent(gemm_ms / whole)} of the GEMM peak and {_percent(memory_ms / whole)} of the memory's"
    weights = sum(layer.weight_bytes for layer in layers)
    moved = weights + sum(each.moved_bytes for each in operators)
    needed = weights + sum(layer.activation_bytes for layer in layers)
    if moved >= EXTRA * needed:
        return [f"extra passes: {moved / needed:.1f} times the bytes that its layers need; {far}"]
    apart = [each for each in operators if ".depthwise" in each.name or ".middle" in each.name or ".start" in each.name]
    if sum(each.ms for each in apart) >= HALF * whole:
        return [f"depthwise: {_percent(sum(each.ms for each in apart) / whole)}, few products per byte; {far}"]
    return [f"mostly {_kinds(operators)}, {far}"]


def _left_in_floats(operator: OperatorTime, precision: Precision) -> bool:
    """A product of floats in an int8 file."""
    return precision == "int8" and operator.numbers == "float32" and operator.kind in PRODUCTS


def _kinds(operators: Sequence[OperatorTime]) -> str:
    """The kinds that take most of the time, at most two."""
    times: dict[str, float] = {}
    for each in operators:
        times[each.kind] = times.get(each.kind, 0.0) + each.ms
    return ", ".join(sorted(times, key=lambda kind: -times[kind])[:2])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
