"""One measurement in a process of its own: `python -m mobilenets.profiling.worker`, asked by `ask`.

The request is one JSON object on standard input and the reply one on standard output. Threads of two engines that spin
in one process would take each other's cores, so every engine gets a process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bench.replies import own_output, reply_of
from ..errors import MobileNetsError, UsageError
from ..records import Artifact, to_json
from ..runtime import open_artifact
from . import machine, onnx_runtime, open_vino
from .records import Operators, OperatorTime

__all__ = ["GemmRequest", "MemoryRequest", "OperatorsRequest", "answer", "main"]

PIXELS_SEED: Final = 0
LEAST_RUNS: Final = 5


class OperatorsRequest(msgspec.Struct, frozen=True, kw_only=True, tag="operators"):
    """Profile an artifact."""

    path: str
    engine: str | None  # None: the one that suits the artifact
    threads: int | None
    batch_size: int
    seconds: float


class GemmRequest(msgspec.Struct, frozen=True, kw_only=True, tag="gemm"):
    """Matrix products, and operators with nothing to do, by one engine."""

    engine: str
    threads: int
    seconds: float
    edge: int


class MemoryRequest(msgspec.Struct, frozen=True, kw_only=True, tag="memory"):
    """Copies of memory."""

    threads: int
    seconds: float
    working_sets: tuple[int, ...]


class _Profiler(Protocol):
    def __call__(
        self, artifact: Artifact, folder: Path, pixels: NDArray[np.uint8], *, threads: int, seconds: float
    ) -> tuple[tuple[OperatorTime, ...], float, int]: ...


PROFILERS: Final[Mapping[str, _Profiler]] = MappingProxyType(
    {"onnxruntime": onnx_runtime.operators, "openvino": open_vino.operators}
)


def main() -> None:
    """Answer one request."""
    replies = own_output()
    try:
        reply = answer(msgspec.json.decode(sys.stdin.read(), type=OperatorsRequest | GemmRequest | MemoryRequest))
    except MobileNetsError as error:
        reply = reply_of(error)
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def answer(request: OperatorsRequest | GemmRequest | MemoryRequest) -> dict[str, Any]:
    """What a request asks for, as JSON.

    Raises:
        UsageError: an engine that tells nothing of its operators; or as `runtime.open_artifact`.
    """
    if isinstance(request, OperatorsRequest):
        return dict(to_json(_operators(request)))
    if isinstance(request, GemmRequest):
        found = machine.gemms(request.engine, threads=request.threads, seconds=request.seconds, edge=request.edge)
        least = machine.operator_ms(request.engine, threads=request.threads, seconds=request.seconds)
        return {"gemm": to_json(found), "operator_ms": least}
    if isinstance(request, MemoryRequest):
        copies = machine.bandwidths(threads=request.threads, seconds=request.seconds, working_sets=request.working_sets)
        return {"bandwidth": to_json(copies)}
    raise UsageError(f"a request {request!r}", wanted="operators, gemm or memory", do="send one of these")


def _operators(request: OperatorsRequest) -> Operators:
    model = open_artifact(Path(request.path), engine=request.engine, threads=request.threads)
    engine = model.engine
    if engine.name not in PROFILERS:
        raise UsageError(
            f"{engine.name} tells nothing of its operators",
            wanted=" or ".join(PROFILERS),
            do="profile an onnx or openvino artifact of the same bundle",
        )
    preprocess = model.preprocess
    shape = (request.batch_size, preprocess.resolution, preprocess.resolution, preprocess.channels)
    pixels = np.random.default_rng(PIXELS_SEED).integers(0, 256, shape, dtype=np.uint8)
    latencies: list[float] = []
    engine.run(pixels)
    end = time.perf_counter() + request.seconds / 2
    while len(latencies) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        engine.run(pixels)
        latencies.append(1000 * (time.perf_counter() - start))
    told, whole, runs = PROFILERS[engine.name](
        model.artifact, model.folder, pixels, threads=engine.threads, seconds=request.seconds
    )
    return Operators(
        engine=engine.name,
        version=engine.version,
        threads=engine.threads,
        latency_ms=median(latencies),
        profiled_ms=whole,
        runs=runs,
        operators=told,
    )


if __name__ == "__main__":
    main()
