"""Measurements that nobody made, and a clock that goes by what an artifact computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mobilenets.bench import Entry, Latency
from mobilenets.ledger import Judged, Measured, Ratio
from mobilenets.runtime import read_artifact

Clock = Callable[..., tuple[Latency, ...]]


def latency(ms: float, path: str = "artifact") -> Latency:
    return Latency(
        path=path,
        median_ms=ms,
        low_ms=0.99 * ms,
        high_ms=1.01 * ms,
        p95_ms=ms,
        min_ms=ms,
        mean_ms=ms,
        iqr_ms=0.01 * ms,
        n=60,
        runs_per_round=10,
        warmup_runs=1,
        lead_runs=1,
        batch_size=1,
        threads=1,
        engine="onnxruntime",
        engine_version="0",
        round_medians_ms=(ms,) * 6,
    )


def measured(*, right: int, size_mb: float, n: int = 100, faster: Ratio | None = None) -> Measured:
    top1 = right / n
    return Measured(
        digest="d",
        precision="fp32",
        mult_adds=1_000_000,
        parameters=1000,
        size_mb=size_mb,
        val=Judged(split="val", n=n, top1=top1, top1_low=top1, top1_high=top1),
        latency=latency(1.0),
        faster_than_start=faster,
        faster_than_before=faster,
        artifact="start/fp32",
        fp32="start/fp32",
    )


def clock(*, int8: float = 0.5) -> Clock:
    """Stands in for `measure_all`: a millisecond for each million products, `int8` times that in bytes."""

    def measure_all(paths: Sequence[Path | Entry], **_: object) -> tuple[Latency, ...]:
        found = []
        for each in paths:
            path = Path(each.path if isinstance(each, Entry) else each)
            artifact, _ = read_artifact(path)
            factor = int8 if artifact.precision == "int8" else 1.0
            found.append(latency(factor * artifact.mult_adds / 1e6, str(path)))
        return tuple(found)

    return measure_all
