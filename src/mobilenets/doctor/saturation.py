"""How much of what real images lead to lies outside an int8 file's ranges."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, first_line
from .graph import Graph, scalar
from .seen import Saturated

__all__ = ["saturation"]

IMAGES: Final = 16  # each has thousands of numbers in every map


def saturation(model: Any, graph: Graph, arrays: NDArray[Any]) -> tuple[Saturated, ...]:
    """Every range of an ONNX file, in the order of its operators.

    Args:
        model: the `onnx.ModelProto`, with QuantizeLinear in it.
        graph: of it.
        arrays: images in the file's own type and layout, (N, ...); the first 16 are taken, one by one.

    Raises:
        FileFormatError: ONNX Runtime does not run it operator by operator.
    """
    import onnxruntime as ort
    from onnx import helper

    ranges: dict[str, tuple[float, float, float]] = {}
    for node in graph.works("QuantizeLinear"):
        step, zero = scalar(graph, node.inputs[1]), _zero(graph, node.inputs)
        if step is None or not np.isfinite(step) or step <= 0 or node.inputs[0] in graph.constants or zero is None:
            continue
        lowest, highest, at = zero
        ranges[node.inputs[0]] = (step * (lowest - at), step * (highest - at), step)
    if not ranges:
        return ()
    made = type(model)()
    made.CopyFrom(model)
    given = graph.inputs[0].name
    asked = [name for name in ranges if name != given] or [graph.outputs[0].name]
    del made.graph.output[:]
    made.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in asked)
    options = ort.SessionOptions()
    # Fused operators do not show what they cut off.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    outside = {name: [0, 0, 0] for name in ranges}
    taken = arrays[:IMAGES]
    try:
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for image in taken:
            found = dict(zip(asked, session.run(asked, {given: image[None]}), strict=True))
            found[given] = image[None]
            for name, (low, high, step) in ranges.items():
                counts, values = outside[name], found[name]
                counts[0] += int((values < low - step / 2).sum())
                counts[1] += int((values > high + step / 2).sum())
                counts[2] += int(values.size)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise FileFormatError(
            f"the file does not run without fusing: {first_line(error)}",
            wanted="standard QuantizeLinear and DequantizeLinear",
            do="leave the images away to see the other findings",
        ) from error
    return tuple(
        Saturated(
            value=name,
            low=low,
            high=high,
            below=outside[name][0] / max(outside[name][2], 1),
            above=outside[name][1] / max(outside[name][2], 1),
            images=len(taken),
        )
        for name, (low, high, _) in ranges.items()
    )


def _zero(graph: Graph, inputs: tuple[str, ...]) -> tuple[int, int, float] | None:
    """The lowest and highest byte, and the one that stands for zero."""
    if len(inputs) < 3:
        return 0, 255, 0.0
    zero = graph.constants.get(graph.source(inputs[2]))
    if zero is None or zero.size != 1 or zero.dtype.name not in ("int8", "uint8"):
        return None
    kind = np.iinfo(zero.dtype)
    return int(kind.min), int(kind.max), float(zero.reshape(-1)[0])
