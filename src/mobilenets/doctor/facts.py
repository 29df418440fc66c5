"""What a file is, told without judging."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .by_record import numbers_text, padding_of, table_padding
from .graph import COMPUTES, mult_adds, weight_of
from .records import Fact
from .seen import Seen

__all__ = ["facts_of"]

SLOWEST = 4


def facts_of(seen: Seen) -> tuple[Fact, ...]:
    """The facts, in the order in which they are told."""
    return tuple(Fact(name=name, value=value) for name, value in _facts(seen))


def _facts(seen: Seen) -> Iterator[tuple[str, str]]:
    graph = seen.graph
    opset = f", opset {graph.opset}" if graph.opset is not None else ""
    yield "format", f"{graph.format}{opset}, {len(graph.nodes)} operators"
    for port in graph.inputs:
        yield "input", f"{port.name}: {port.type} {_shape(port.shape)}{_layout(seen)}"
    for port in graph.outputs:
        yield "output", f"{port.name}: {port.type} {_shape(port.shape)}"
    layers = [node for node in graph.nodes if node.op in COMPUTES]
    products = sum(mult_adds(graph, node) for node in layers)
    yield (
        "layers",
        f"{len(layers)} with weights or products" + (f", {products / 1e6:.1f} M mult-adds" if products else ""),
    )
    sizes: Counter[str] = Counter()
    for node in layers:
        weight = weight_of(graph, node)
        if weight is not None:
            sizes[weight.dtype.name] += weight.nbytes
    if sizes:
        yield "weights", ", ".join(f"{size / 1e6:.2f} MB {kind}" for kind, size in sizes.most_common())
    yield "normalisation", _normalisation(seen)
    yield "padding", _padding(seen)
    if seen.compiled is not None:
        yield "operators that run", _operators(seen)
        shares: Counter[str] = Counter()
        for each in seen.compiled.ran.values():
            shares[each.op] += round(1000 * each.share)
        slowest = ", ".join(f"{op} {share / 10:.1f} %" for op, share in shares.most_common(SLOWEST))
        yield "time by operator", f"{slowest} (ONNX Runtime {seen.compiled.version}, 1 thread, {seen.compiled.asked})"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("free" if side is None else str(side) for side in shape) + ")"


def _layout(seen: Seen) -> str:
    if seen.front is None:
        return ""
    return ", by planes" if seen.front.input_planes else ", by pixels"


def _normalisation(seen: Seen) -> str:
    if seen.front is None or not seen.front.whole:
        return "none at the input that can be read off"
    mean, std = seen.front.normalisation()
    return f"inside, of bytes: mean {numbers_text(mean)}, std {numbers_text(std)}"


def _padding(seen: Seen) -> str:
    found = padding_of(seen.graph)
    if not found:
        return "no convolution strides"
    told = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
    said = table_padding(seen)
    return f"convolutions that stride: {told}" + (f"; the table says {said}" if said else "")


def _operators(seen: Seen) -> str:
    assert seen.compiled is not None
    return f"{len(seen.compiled.graph.nodes)} of {len(seen.graph.nodes)} after fusing"
