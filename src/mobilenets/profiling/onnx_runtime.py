"""What ONNX Runtime's profiler says of an artifact's operators."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError
from ..records import Artifact
from ..runtime.engines.onnx_runtime import session_options
from .places import part_of, placed
from .records import OperatorTime

__all__ = ["operators"]

WARM_RUNS: Final = 3
MAX_RUNS: Final = 500  # the profiler keeps a million events, and a network has some hundred a run
SUFFIX: Final = "_kernel_time"
TYPES: Final = {"float": "float32"}  # what ONNX calls otherwise than numpy


def operators(
    artifact: Artifact, folder: Path, pixels: NDArray[np.uint8], *, threads: int, seconds: float
) -> tuple[tuple[OperatorTime, ...], float, int]:
    """The operators in the order in which they run, the time of a whole run in ms, and the number of runs.

    All are means over the quietest quarter of the runs, so that the operators and what lies between them sum to the
    whole.

    Args:
        artifact: its record; the file was checked when it was opened.
        folder: where it lies.
        pixels: what it answers.
        threads: of the engine.
        seconds: for the runs.

    Raises:
        CheckError: the profiler told nothing.
    """
    import onnxruntime as ort

    content = (folder / artifact.file).read_bytes()
    options = session_options(artifact.precision, threads=threads, content=content)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as kept:
        options.profile_file_prefix = str(Path(kept) / "profile")
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        _run_for(seconds, lambda: session.run([artifact.output_name], {artifact.input_name: pixels}))
        told = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = _runs(told)[WARM_RUNS:]
    if not runs or not all(len(nodes) == len(runs[0][1]) > 0 for _, nodes in runs):
        raise CheckError(
            f"ONNX Runtime {ort.__version__} told no operators of {artifact.file}",
            wanted="the same operators in every run",
            do="profile with another engine",
        )
    limit = sorted(whole for whole, _ in runs)[len(runs) // 4]
    quiet = [run for run in runs if run[0] <= limit]
    whole = sum(whole for whole, _ in quiet) / len(quiet) / 1000
    found = [_operator([nodes[index] for _, nodes in quiet]) for index in range(len(quiet[0][1]))]
    return placed(found), whole, len(quiet)


def _run_for(seconds: float, once: Callable[[], Any]) -> None:
    end = time.perf_counter() + seconds
    for number in range(MAX_RUNS):
        if number >= 2 * WARM_RUNS and time.perf_counter() > end:
            break
        once()


def _runs(told: Iterable[dict[str, Any]]) -> list[tuple[float, list[dict[str, Any]]]]:
    """Each run's time in microseconds, and its operators: a run is told of when it is over."""
    runs: list[tuple[float, list[dict[str, Any]]]] = []
    nodes: list[dict[str, Any]] = []
    for event in told:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            nodes.append(event)
        elif event.get("name") == "model_run":
            runs.append((float(event["dur"]), nodes))
            nodes = []
    return runs


def _operator(events: Sequence[dict[str, Any]]) -> OperatorTime:
    first, told = events[0], events[0]["args"]
    name = first["name"].removesuffix(SUFFIX)
    types = [next(iter(each)) for each in told.get("input_type_shape", ()) if each]
    return OperatorTime(
        name=name,
        kind=told.get("op_name", ""),
        part=part_of([name]),
        ms=sum(event["dur"] for event in events) / len(events) / 1000,
        moved_bytes=int(told.get("activation_size", 0)) + int(told.get("output_size", 0)),
        numbers=TYPES.get(types[0], types[0]) if types else "",
    )
