"""From latencies to a report: numbers that carry their conditions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ..records import Environment, Report, ReportRow
from ..runtime.artifact import read_artifact
from .measure import ROUND_SECONDS, Latency, interval_of_median, measure_all

__all__ = ["bench", "report_of"]


def bench(
    artifacts: Sequence[Path],
    *,
    threads: int | None = None,
    batch_size: int = 1,
    seconds: float = 3.0,
    engine: str | None = None,
) -> Report:
    """Measure how fast artifacts answer on this machine. Needs no torch.

    Each artifact has a process of its own; they are timed in turn, in short rounds (`measure_all`).

    Args:
        artifacts: folders of artifacts, or files in them.
        threads: of the engine; by default the cores this process may use, at most 4.
        batch_size: images per run.
        seconds: for the rounds of each artifact.
        engine: a key of `runtime.ENGINES`; by default the one that suits each artifact.

    Returns:
        For each artifact: `latency_ms` (the median of one batch, spread = interquartile range over the runs) with
        `latency_ms_low` and `latency_ms_high` (its 95 % interval), `latency_ms_p95`, `_min` and `_mean`,
        `images_per_second`, and what is known of the model: `size_mb`, `parameters`, `mult_adds`, `resolution`. For
        each artifact after the first: `latency_ratio` to the first, paired by round, with `_low` and `_high`.

    Raises:
        UsageError: bad values, or an artifact that cannot be opened.
        CheckError: a worker crashed.
    """
    for path in artifacts:  # what is plainly wrong is told before any process starts
        read_artifact(Path(path))
    latencies = measure_all(
        [Path(path) for path in artifacts], threads=threads, batch_size=batch_size, seconds=seconds, engine=engine
    )
    return report_of(latencies)


def report_of(latencies: Sequence[Latency]) -> Report:
    """The report of what `measure_all` found.

    Raises:
        FileFormatError: an artifact is gone in the meantime.
    """
    names = _names([latency.path for latency in latencies])
    rows: list[ReportRow] = []
    for name, latency in zip(names, latencies, strict=True):
        rows += _speed(name, latency)
        rows += _facts(name, Path(latency.path))
    for name, latency in zip(names[1:], latencies[1:], strict=True):
        rows += _ratio(f"{name} / {names[0]}", latency, latencies[0])
    environment = Environment.capture()
    first = latencies[0]
    return Report(
        title="Latency",
        rows=tuple(rows),
        environment=environment,
        protocol={
            "cpu": environment.cpu,
            "engine": first.engine,
            "engine_version": first.engine_version,
            "threads": first.threads,
            "batch_size": first.batch_size,
            "input": "uniform random uint8 pixels, seed 0, the same for every run",
            "timed": "engine.run alone, back to back; perf_counter_ns; no decoding, no resizing",
            "process_per_artifact": True,
            "interleaved": "rounds in rotated order; the others are idle, their threads at rest",
            "round_seconds": ROUND_SECONDS,
            "rounds": first.rounds,
            "runs_per_round": {n: x.runs_per_round for n, x in zip(names, latencies, strict=True)},
            "lead_runs_per_round": {n: x.lead_runs for n, x in zip(names, latencies, strict=True)},
            "warmup_runs": {n: x.warmup_runs for n, x in zip(names, latencies, strict=True)},
            "outliers": "none removed",
            "interval": "95 %, order statistics of the rounds' medians",
        },
    )


def _speed(name: str, latency: Latency) -> list[ReportRow]:
    values = {
        "latency_ms_low": latency.low_ms,
        "latency_ms_high": latency.high_ms,
        "latency_ms_p95": latency.p95_ms,
        "latency_ms_min": latency.min_ms,
        "latency_ms_mean": latency.mean_ms,
        "images_per_second": latency.images_per_second,
    }
    return [
        ReportRow(what=name, metric="latency_ms", value=latency.median_ms, n=latency.n, spread=latency.iqr_ms),
        *(ReportRow(what=name, metric=metric, value=value, n=latency.n) for metric, value in values.items()),
    ]


def _facts(name: str, path: Path) -> list[ReportRow]:
    """What the artifact says of itself; counted, not measured."""
    artifact, _ = read_artifact(path)
    values = {
        "size_mb": artifact.size_mb,
        "parameters": artifact.parameters,
        "mult_adds": artifact.mult_adds,
        "resolution": artifact.preprocess.resolution,
    }
    return [ReportRow(what=name, metric=metric, value=float(value), n=1) for metric, value in values.items()]


def _ratio(name: str, latency: Latency, base: Latency) -> list[ReportRow]:
    """How many times as long as `base`: rounds side by side met the same disturbances, which cancel."""
    ratios = [a / b for a, b in zip(latency.round_medians_ms, base.round_medians_ms, strict=True)]
    low, high = interval_of_median(ratios)
    values = {"latency_ratio": median(ratios), "latency_ratio_low": low, "latency_ratio_high": high}
    return [ReportRow(what=name, metric=metric, value=value, n=len(ratios)) for metric, value in values.items()]


def _names(paths: Sequence[str]) -> list[str]:
    """The paths, told apart where one is given more than once."""
    names: list[str] = []
    for path in paths:
        seen = sum(1 for earlier in paths[: len(names)] if earlier == path)
        names.append(f"{path} ({seen + 1})" if seen else path)
    return names
