"""What OpenVINO's counters say of an artifact's operators."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..records import Artifact
from ..runtime.engines.open_vino import cpu_options, import_openvino
from .places import part_of, placed
from .records import OperatorTime

__all__ = ["operators"]

LEAST_RUNS: Final = 20  # the counters take the first, slow run in
STILL: Final = frozenset({"Const", "Input", "Output"})
NO_KERNEL: Final = ("unknown", "undef", "reorder_")  # kernels' types begin with ref_, jit_, brgconv_ and the like
PLAIN: Final = "ref"  # how a kernel's type begins where there is no fast one
NUMBERS: Final = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "u8": "uint8", "i8": "int8", "i32": "int32"}
SIZES: Final = {"f32": 4, "bf16": 2, "f16": 2, "u8": 1, "i8": 1, "i32": 4, "i64": 8}


def operators(
    artifact: Artifact, folder: Path, pixels: NDArray[np.uint8], *, threads: int, seconds: float
) -> tuple[tuple[OperatorTime, ...], float, int]:
    """The operators in the order in which they run, the time of a whole run in ms, and the number of runs.

    All are means over all runs, for that is what the counters hold.

    Args:
        artifact: its record; the files were checked when it was opened.
        folder: where they lie.
        pixels: what it answers.
        threads: of the engine.
        seconds: for the runs.
    """
    ov = import_openvino()
    core = ov.Core()
    model = core.read_model(str(folder / artifact.file))
    model.reshape({each: [len(pixels), *list(each.partial_shape)[1:]] for each in model.inputs})
    compiled = core.compile_model(
        model, "CPU", {**cpu_options(artifact.precision, threads=threads), "PERF_COUNT": True}
    )
    request = compiled.create_infer_request()
    spent, runs, end = 0.0, 0, time.perf_counter() + seconds
    while runs < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        request.infer({artifact.input_name: pixels}, share_inputs=True)
        spent += time.perf_counter() - start
        runs += 1
    graph = {node.get_friendly_name(): node for node in compiled.get_runtime_model().get_ordered_ops()}
    found = []
    for told in request.get_profiling_info():
        ms = 1000 * told.real_time.total_seconds()
        node = graph.get(told.node_name)
        if ms > 0 or (node is not None and not _stands_still(told, node)):
            found.append(_operator(told, node, ms=ms))
    return placed(found), 1000 * spent / runs, runs


def _stands_still(told: Any, node: Any) -> bool:
    """Whether nothing is done for it: constants, the ends of the graph, what was fused or only renames memory.

    The counters hold whole microseconds, so that an operator of less looks as if it had not run.
    """
    return _said(node, "layerType") in STILL or told.exec_type.startswith(NO_KERNEL)


def _operator(told: Any, node: Any, *, ms: float) -> OperatorTime:
    fused = "" if node is None else _said(node, "originalLayersNames")
    kind = told.node_type if node is None else _said(node, "layerType") or told.node_type
    read = "" if node is None else _said(node, "runtimePrecision")
    return OperatorTime(
        name=told.node_name,
        kind=kind,
        part=part_of([told.node_name, *fused.split(",")]),
        ms=ms,
        moved_bytes=0 if node is None else _bytes(node),
        numbers=NUMBERS.get(read, read),
        fell_back=told.exec_type.startswith(PLAIN),
    )


def _bytes(node: Any) -> int:
    """Of activations: constants among the inputs are weights, which the table counts."""
    total = 0
    for number in range(node.get_input_size()):
        source = node.input(number).get_source_output()
        if _said(source.get_node(), "layerType") != "Const":
            total += _size(source)
    return total + sum(_size(each) for each in node.outputs())


def _size(output: Any) -> int:
    """Bytes of a value. The runtime's graph gives its type as the precision of the node that makes it."""
    shape = output.get_partial_shape()
    if not shape.is_static:
        return 0
    kind = _said(output.get_node(), "outputPrecisions").split(",")
    type_ = kind[min(output.get_index(), len(kind) - 1)] or output.get_element_type().get_type_name()
    return int(math.prod(shape.to_shape())) * SIZES.get(type_, 4)


def _said(node: Any, name: str) -> str:
    told = node.get_rt_info()
    if name not in told:
        return ""
    value = told[name]
    return str(value.astype(str) if hasattr(value, "astype") else value)
