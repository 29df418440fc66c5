"""The timing protocol: models in turn, in short rounds, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from ..errors import UsageError
from .pool import Entry, Timed, Worker

__all__ = ["Latency", "interval_of_median", "measure", "measure_all", "paired_ratio"]

ROUND_SECONDS = 0.15  # long against the clock and a time slice, short against what drifts
LEAD_SECONDS = 0.02  # of each round, not counted: threads asleep and caches cold are the interleaving's doing
WARM_BLOCK_SECONDS = 0.05
WARM_STABLE = 0.05  # warm: a block's median within 5 % of the best one before it
WARM_SHARE = 0.25  # of a model's seconds, at most
MIN_ROUNDS = 6  # the fewest that give the median a distribution-free 95 % interval
MAX_RUNS = 2000  # per round; bounds the reply's size for very small models


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one artifact takes to answer one batch, in milliseconds, and how sure that is.

    `median_ms` is the median of the rounds' medians; `low_ms` to `high_ms` is its 95 % interval by order statistics
    over the rounds, not over the runs: runs of the same round share whatever else the machine does in that moment. A
    budget is to be compared with `high_ms`. The others are over all runs; none is thrown away as an outlier.
    """

    path: str
    median_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    min_ms: float
    mean_ms: float
    iqr_ms: float
    n: int  # runs
    runs_per_round: int
    warmup_runs: int
    lead_runs: int  # per round
    batch_size: int
    threads: int
    engine: str
    engine_version: str
    round_medians_ms: tuple[float, ...]
    name: str = ""  # the path, and the engine where one was asked for
    facts: dict[str, float] = {}  # what is known of the model: `size_mb`, `parameters`, `mult_adds`, `resolution`
    joules: float | None = None  # of the whole machine for one batch, the mean over all runs; None: it does not tell
    no_energy: str = ""  # why it does not

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return len(self.round_medians_ms)

    @property
    def images_per_second(self) -> float:
        """Throughput of back-to-back runs at the median."""
        return 1000 * self.batch_size / self.median_ms


class _Plan(msgspec.Struct, frozen=True):
    """What a warm-up finds out: how many runs make a round."""

    runs: int
    lead: int
    warmup: int


def measure(
    path: Path, *, threads: int | None = None, batch_size: int = 1, seconds: float = 1.0, engine: str | None = None
) -> Latency:
    """The latency of one artifact; `measure_all` tells the rest."""
    (latency,) = measure_all([path], threads=threads, batch_size=batch_size, seconds=seconds, engine=engine)
    return latency


def measure_all(
    paths: Sequence[Path | Entry],
    *,
    threads: int | None = None,
    batch_size: int = 1,
    seconds: float = 3.0,
    engine: str | None = None,
    images: Sequence[Path] = (),
) -> tuple[Latency, ...]:
    """The latencies of several artifacts, measured in turn, each in a process of its own.

    All processes stay open and idle while one of them runs. In round r the order is rotated by r, so nobody always
    follows the same neighbour. The same path may be given twice, which shows what the machine's noise makes of no
    difference.

    Args:
        paths: artifacts, or entries that name an engine each.
        threads: of the engine; by default the cores this process may use, at most 4.
        batch_size: images per run.
        seconds: for the rounds of each artifact. Opening and warm-up come on top, and so does what it takes to get
            six rounds of at least one run.
        engine: a key of `runtime.ENGINES`, for paths; by default the one that suits each artifact.
        images: files; then all that lies between them and their labels is timed, and not the answer alone.

    Raises:
        UsageError: no paths, or values below their least; an artifact that cannot be opened, naming it.
        CheckError: a worker crashed; names the artifact. All workers are ended in any case.
    """
    _check(paths, threads=threads, batch_size=batch_size, seconds=seconds)
    entries = [each if isinstance(each, Entry) else Entry(path=str(each), engine=engine) for each in paths]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(entry, threads=threads, batch_size=batch_size, images=images))
            for entry in entries
        ]
        for worker in workers:
            worker.opened()
        plans = [_warm_up(worker, seconds=seconds) for worker in workers]
        rounds: list[list[Timed]] = [[] for _ in workers]
        spent = 0.0  # on rounds, by all
        number = 0
        while number < MIN_ROUNDS or spent < seconds * len(workers):
            for turn in range(len(workers)):
                which = (number + turn) % len(workers)
                start = time.perf_counter()
                rounds[which].append(workers[which].timed(runs=plans[which].runs, lead=plans[which].lead))
                spent += time.perf_counter() - start
            number += 1
        return tuple(
            _summary(worker, plan, samples, batch_size=batch_size)
            for worker, plan, samples in zip(workers, plans, rounds, strict=True)
        )


def paired_ratio(one: Latency, other: Latency) -> tuple[float, float, float]:
    """How many times as long the one takes as the other: the median over the rounds, and its 95 % interval.

    Both are of one `measure_all`: rounds side by side met the same disturbances, which cancel.

    Raises:
        ValueError: they are of other numbers of rounds.
    """
    ratios = [a / b for a, b in zip(one.round_medians_ms, other.round_medians_ms, strict=True)]
    return median(ratios), *interval_of_median(ratios)


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval for the median of what `values` were drawn from, whatever its distribution.

    Order statistics: x(j) to x(n+1-j) covers the median with probability 1 - 2 P[Binomial(n, 1/2) < j], and j is the
    largest that leaves at least 95 %. Fewer than six values give their whole range, which covers less.
    """
    ordered, n = sorted(values), len(values)
    below = j = 0
    # `below` counts the outcomes of n coin tosses with fewer than j + 1 heads, out of 2^n.
    while 2 * (below + math.comb(n, j)) <= 0.05 * 2**n:
        below += math.comb(n, j)
        j += 1
    j = max(j, 1)
    return ordered[j - 1], ordered[n - j]


def _warm_up(worker: Worker, *, seconds: float) -> _Plan:
    """Run until the speed no longer rises, then set the length of a round."""
    give_up = time.perf_counter() + WARM_SHARE * seconds
    (first,) = worker.time(runs=1)
    best, done = first, 1
    while True:
        block = _runs(WARM_BLOCK_SECONDS, best)
        now = median(worker.time(runs=block))
        done += block
        stable = abs(now - best) <= WARM_STABLE * best
        best = min(best, now)
        if stable or time.perf_counter() > give_up:
            break
    length = min(ROUND_SECONDS, seconds / MIN_ROUNDS)
    # A run longer than the lead is not worth repeating: whatever wakes up does so within its first moments.
    lead = 0 if best > 1000 * LEAD_SECONDS else _runs(min(LEAD_SECONDS, length / 4), best)
    return _Plan(runs=_runs(length, best), lead=lead, warmup=done)


def _runs(seconds: float, latency_ms: float) -> int:
    """How many runs fill `seconds`."""
    return min(MAX_RUNS, max(1, round(1000 * seconds / max(latency_ms, 1e-3))))


def _summary(worker: Worker, plan: _Plan, rounds: list[Timed], *, batch_size: int) -> Latency:
    runs = np.concatenate([np.asarray(each.latencies_ms) for each in rounds])
    medians = tuple(median(each.latencies_ms) for each in rounds)
    used = [each.joules for each in rounds if each.joules is not None]
    low, high = interval_of_median(medians)
    quarter, three_quarters, p95 = np.percentile(runs, [25, 75, 95])
    opened = worker.opened()
    return Latency(
        path=worker.entry.path,
        name=worker.entry.name,
        facts=opened.facts,
        joules=sum(used) / len(runs) if len(used) == len(rounds) else None,
        no_energy=opened.no_energy,
        median_ms=median(medians),
        low_ms=low,
        high_ms=high,
        p95_ms=float(p95),
        min_ms=float(runs.min()),
        mean_ms=float(runs.mean()),
        iqr_ms=float(three_quarters - quarter),
        n=len(runs),
        runs_per_round=plan.runs,
        warmup_runs=plan.warmup,
        lead_runs=plan.lead,
        batch_size=batch_size,
        threads=opened.threads,
        engine=opened.engine,
        engine_version=opened.version,
        round_medians_ms=medians,
    )


def _check(paths: Sequence[Any], *, threads: int | None, batch_size: int, seconds: float) -> None:
    if not paths:
        raise UsageError("there are no artifacts", wanted="at least one", do="name some")
    for name, value in (("threads", threads), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}", wanted="at least 1", do="give a positive number")
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}", wanted="a positive number", do="give one; 3 is the usual")
