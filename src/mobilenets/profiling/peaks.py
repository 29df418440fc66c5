"""This machine's peaks, measured."""

from __future__ import annotations

from typing import Final

import msgspec

from ..errors import UsageError
from ..runtime import default_threads, is_installed
from .ask import ask
from .machine import EDGE, WORKING_SETS
from .records import Bandwidth, Gemm, Peaks
from .worker import PROFILERS, GemmRequest, MemoryRequest

__all__ = ["measure_peaks"]

SECONDS: Final = 0.4


def measure_peaks(
    *,
    threads: int | None = None,
    seconds: float = SECONDS,
    edge: int = EDGE,
    working_sets: tuple[int, ...] = WORKING_SETS,
) -> Peaks:
    """What this machine can do: matrix products by every engine that is installed, in every precision it has here, and
    copies of memory. Each engine is in a process of its own, one after another.

    Args:
        threads: by default the cores this process may use, at most 4.
        seconds: for each precision and each working set.
        edge: of the square matrices.
        working_sets: bytes, the smallest first.

    Raises:
        UsageError: threads below 1.
        CheckError: a process died.
    """
    count = default_threads() if threads is None else threads
    if count < 1:
        raise UsageError(f"threads is {count}", wanted="at least 1", do="give a positive number, or none at all")
    gemm: list[Gemm] = []
    operator_ms: dict[str, float] = {}
    for engine in filter(is_installed, PROFILERS):
        told = ask(
            GemmRequest(engine=engine, threads=count, seconds=seconds, edge=edge), name=f"matrix products by {engine}"
        )
        gemm += msgspec.convert(told["gemm"], list[Gemm])
        operator_ms[engine] = told["operator_ms"]
    copies = ask(MemoryRequest(threads=count, seconds=seconds / 4, working_sets=working_sets), name="copies of memory")
    return Peaks(
        threads=count,
        gemm=tuple(gemm),
        bandwidth=tuple(msgspec.convert(copies["bandwidth"], list[Bandwidth])),
        operator_ms=operator_ms,
    )
