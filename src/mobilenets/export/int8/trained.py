"""Ranges that a network was trained with: where they are asked for, and where they are kept."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...bundle import Bundle
from ...errors import FileFormatError
from ..onnx_graph import to_onnx
from .bytes import quantized
from .model import Model
from .prepare import BYTES, prepared
from .ranges import Range, Ranges, calibrated

__all__ = ["RANGES_KEY", "starting_ranges", "trained_ranges"]

RANGES_KEY: Final = "int8_ranges"  # in the history's entry of the training that learned them
MADE: Final = "_QuantizeLinear_Output"  # how ONNX Runtime's quantiser names the bytes of a value
# They move numbers and change none, so their bytes are those of what they are given.
MOVES: Final = frozenset({"Transpose", "Reshape", "Flatten"})


def starting_ranges(bundle: Bundle, images: NDArray[np.uint8]) -> dict[str, Range]:
    """The range of every value that the int8 file of a bundle rounds to bytes, by min-max, in the graph's order.

    They are read from such a file. Pixels, which are bytes already, are not among them.

    Args:
        bundle: a trained network.
        images: prepared training images, uint8 (N, R, R, C), N >= 1.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    graph = prepared(to_onnx(bundle.spec, bundle.tensors, bundle.preprocess), bundle.preprocess, kernels="onnxruntime")
    found = calibrated(graph, images, method="minmax")
    same = {node.name for node in graph.graph.node if node.op_type in MOVES} | {BYTES}
    nodes: list[Any] = Model(quantized(graph, found, kernels="onnxruntime")).nodes
    names = [node.output[0].removesuffix(MADE) for node in nodes if node.op_type == "QuantizeLinear"]
    return {name: found[name] for name in names if name not in same}


def trained_ranges(bundle: Bundle) -> Ranges | None:
    """The ranges that a bundle's weights were trained with; None where its last step was another one.

    Raises:
        FileFormatError: the history holds something else under that name.
    """
    entry = bundle.history[-1] if bundle.history else {}
    if RANGES_KEY not in entry:
        return None
    try:
        found = msgspec.convert(entry[RANGES_KEY], dict[str, tuple[float, float]])
    except msgspec.ValidationError as error:
        raise FileFormatError(
            f"the history's {RANGES_KEY}: {error}",
            wanted="the least and the greatest number by the value's name",
            do="train the bundle for int8 again",
        ) from error
    return {name: Range(low, high) for name, (low, high) in found.items()}
