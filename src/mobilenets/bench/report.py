"""From latencies to a report: numbers that carry their conditions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..records import Environment, Report, ReportRow
from ..runtime.artifact import read_artifact
from .measure import ROUND_SECONDS, Latency, measure_all, paired_ratio
from .pool import Entry

__all__ = ["bench", "report_of"]

NOISE: Final = "uniform random uint8 pixels, seed 0, the same for every run"
ANSWERS: Final = "the model's answer alone, back to back; perf_counter_ns; no decoding, no resizing"
ENERGY: Final = "joules_per_image: processors and memory of the whole machine, while the counted runs lasted"
FROM_FILES: Final = "from image files to labels: read, decode, resize, answer; perf_counter_ns; files are in memory"


def bench(
    artifacts: Sequence[Path | Entry],
    *,
    threads: int | None = None,
    batch_size: int = 1,
    seconds: float = 3.0,
    engine: str | None = None,
    images: Sequence[Path] = (),
) -> Report:
    """Measure how fast artifacts answer on this machine. Needs no torch.

    Each artifact has a process of its own; they are timed in turn, in short rounds (`measure_all`).

    Args:
        artifacts: folders of artifacts, or files in them; or entries, each with the engine that is to run it.
        threads: of the engine; by default the cores this process may use, at most 4.
        batch_size: images per run.
        seconds: for the rounds of each artifact.
        engine: a key of `runtime.ENGINES`, for paths; by default the one that suits each artifact.
        images: files; then reading, decoding and resizing them is timed, too.

    Returns:
        For each artifact: `latency_ms` (the median of one batch, spread = interquartile range over the runs) with
        `latency_ms_low` and `latency_ms_high` (its 95 % interval), `latency_ms_p95`, `_min` and `_mean`,
        `images_per_second`, and what is known of the model: `size_mb`, `parameters`, `mult_adds`, `resolution` (a peer
        may lack some); where the machine tells its energy, `joules_per_image`. For each artifact after the first:
        `latency_ratio` to the first, paired by round, with `_low` and `_high`.

    Raises:
        UsageError: bad values, or an artifact that cannot be opened.
        CheckError: a worker crashed.
    """
    for each in artifacts:  # what is plainly wrong is told before any process starts
        if not isinstance(each, Entry):
            read_artifact(Path(each))
        elif each.worker == Entry(path=each.path).worker:
            read_artifact(Path(each.path))
    latencies = measure_all(
        artifacts, threads=threads, batch_size=batch_size, seconds=seconds, engine=engine, images=images
    )
    return report_of(latencies, images=len(images))


def report_of(latencies: Sequence[Latency], *, images: int = 0) -> Report:
    """The report of what `measure_all` found; `images` is how many files it was given."""
    names = _names([latency.name or latency.path for latency in latencies])
    rows: list[ReportRow] = []
    for name, latency in zip(names, latencies, strict=True):
        rows += _speed(name, latency)
        rows += [ReportRow(what=name, metric=metric, value=value, n=1) for metric, value in latency.facts.items()]
        if latency.joules is not None:
            joules = latency.joules / latency.batch_size
            rows.append(ReportRow(what=name, metric="joules_per_image", value=joules, n=latency.n))
    for name, latency in zip(names[1:], latencies[1:], strict=True):
        rows += _ratio(f"{name} / {names[0]}", latency, latencies[0])
    environment = Environment.capture()
    first = latencies[0]
    return Report(
        title="Latency from file to label" if images else "Latency",
        rows=tuple(rows),
        environment=environment,
        protocol={
            "cpu": environment.cpu,
            "engines": {n: f"{x.engine} {x.engine_version}" for n, x in zip(names, latencies, strict=True)},
            "threads": first.threads,
            "batch_size": first.batch_size,
            "input": f"{images} image files in turn" if images else NOISE,
            "timed": FROM_FILES if images else ANSWERS,
            "process_per_artifact": True,
            "interleaved": "rounds in rotated order; the others are idle, their threads at rest",
            "round_seconds": ROUND_SECONDS,
            "rounds": first.rounds,
            "runs_per_round": {n: x.runs_per_round for n, x in zip(names, latencies, strict=True)},
            "lead_runs_per_round": {n: x.lead_runs for n, x in zip(names, latencies, strict=True)},
            "warmup_runs": {n: x.warmup_runs for n, x in zip(names, latencies, strict=True)},
            "outliers": "none removed",
            "energy": ENERGY if first.joules is not None else first.no_energy or "the counters went away meanwhile",
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


def _ratio(name: str, latency: Latency, base: Latency) -> list[ReportRow]:
    """How many times as long as `base`."""
    value, low, high = paired_ratio(latency, base)
    values = {"latency_ratio": value, "latency_ratio_low": low, "latency_ratio_high": high}
    return [ReportRow(what=name, metric=metric, value=value, n=latency.rounds) for metric, value in values.items()]


def _names(paths: Sequence[str]) -> list[str]:
    """The paths, told apart where one is given more than once."""
    names: list[str] = []
    for path in paths:
        seen = sum(1 for earlier in paths[: len(names)] if earlier == path)
        names.append(f"{path} ({seen + 1})" if seen else path)
    return names
