"""What the ledger holds: `ledger.json`. Accuracies are shares in [0, 1]; sizes in 10^6 bytes; times in milliseconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..bench import Latency
from ..compress import Allocation, Importance, Limits, Target
from ..data import SplitName
from ..records import Environment, Precision
from ..train import Distillation, Recipe

__all__ = ["Judged", "Ledger", "Line", "Measured", "Plan", "Ratio", "StepName", "Verdict"]

StepName = Literal["distil", "prune", "quantise", "qat", "weights"]
Verdict = Literal[
    "start",
    "kept",
    "rolled back",  # it was made, or tried, and does not pay; the next step starts from what stood before it
    "left out",  # there was nothing to do
]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done. A run goes on under the same plan only."""

    bundle: str  # digest of the network it starts from
    model: str  # its name
    data: str  # digest of the data set
    steps: tuple[StepName, ...]
    target: Target | None  # as it was asked for
    max_drop: float  # points of top-1 that may be lost against the start, all steps together
    recipe: Recipe  # of every training; `steps.for_int8` has what "qat" makes of it
    qat: float | None = None  # epochs of "qat", done in any case; None: the recipe's, where quantising loses too much
    teacher: str | None  # digest, or "self": the network as it stood before it was cut
    distillation: Distillation | None
    cuts: int  # that pruning goes in
    importance: Importance
    allocation: Allocation
    limits: Limits
    threads: int
    machine: str  # digest: latencies of two machines are no account


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How often an artifact is right on a split."""

    split: SplitName
    n: int
    top1: float
    top1_low: float  # 95 %, Wilson
    top1_high: float


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast as another artifact: the median of ratios paired by round, in one run in turn."""

    value: float
    low: float  # 95 %, by order statistics over the rounds
    high: float
    rounds: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A network as its artifact was measured. Paths are relative to the ledger."""

    digest: str  # of the bundle
    precision: Precision
    mult_adds: int
    parameters: int
    size_mb: float  # of the model file
    val: Judged
    test: Judged | None = None  # of the first and the last, where the data has such images
    latency: Latency
    faster_than_start: Ratio | None = None  # None for the start itself
    faster_than_before: Ratio | None = None  # than what stood before this step
    bundle: str | None = None  # None: the one it all began with
    artifact: str
    fp32: str  # the float32 artifact of the same bundle; the artifact itself, or what int8 was measured against


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One step, and what became of it."""

    step: Literal["start"] | StepName
    verdict: Verdict
    why: str  # with the numbers
    lost: bool = False  # it was rolled back for its answers: a gate of theirs refused, or too many points were lost
    measured: Measured | None = None  # None: there is no artifact


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The account of a compression. `lines[0]` is the start, then one line per step, in the order of the plan."""

    plan: Plan
    environment: Environment
    most: float | None  # what `plan.target` allows, as a number: products, numbers, 10^6 bytes or milliseconds
    lines: tuple[Line, ...] = ()
    finished: bool = False
    over: str | None = None  # how the delivered artifact exceeds the bound; None: it does not, or there is none

    def standing(self, before: int | None = None) -> int:
        """The index of the last line that stands, of all or of those before line `before`."""
        lines = self.lines[:before]
        return max(number for number, line in enumerate(lines) if line.verdict in ("start", "kept"))
