"""Steps of the real network with real batches on copies, to see how fast a way of computing is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from .learner import Learner
from .loader import Drawn
from .machine import on_threads
from .way import Way

__all__ = ["MakeLearner", "Trial", "measure"]

MakeLearner: TypeAlias = Callable[[Way], Learner]  # of a copy of the network, and of a team of one
ROUNDS = 2  # blocks of each way, in turn: what else the machine does meanwhile falls on all


@final
class Trial:
    """One way of computing, and how long its steps took.

    Args:
        way: the way.
        learner: of a copy; a trial may share it with another that differs in threads only.
        drawn: batches, taken in turn.
    """

    def __init__(self, way: Way, learner: Learner, drawn: Sequence[Drawn]) -> None:
        self.way, self._learner, self._drawn = way, learner, drawn
        self.warming: list[float] = []
        self.seconds: list[float] = []

    def warm(self, count: int = 1) -> None:
        """Steps that are not counted: caches, kernels and momenta are made in them."""
        self.warming += [self._step() for _ in range(count)]

    def run(self, *, until: float) -> None:
        """Steps until `time.monotonic()` says so, at least one."""
        while not self.seconds or time.monotonic() < until:
            self.seconds.append(self._step())
            if time.monotonic() >= until:
                return

    @property
    def step_seconds(self) -> float | None:
        """The median; None where there was no time for a step."""
        return statistics.median(self.seconds) if self.seconds else None

    def _step(self) -> float:
        number = len(self.warming) + len(self.seconds)
        with on_threads(self.way.threads):
            began = time.monotonic()
            # At a rate of 0 weights stay, so that no way is measured on numbers that have run away. Steps at the end of
            # a run are those that cost most.
            loss = self._learner.step(self._drawn[number % len(self._drawn)], step=number, rate=0.0, done=1.0)
            float(loss)  # waits for the device
            return time.monotonic() - began


def measure(trials: Sequence[Trial], *, seconds: float) -> None:
    """Let the trials take turns until the time is up; the step at hand is finished.

    Each warms up first, so that where steps are slow as many ways as possible have had one; later ones may have none.
    """
    began = time.monotonic()
    for trial in trials:
        if not trial.warming:
            trial.warm()
        if time.monotonic() >= began + seconds:
            return
    blocks = [trial for _ in range(ROUNDS) for trial in trials]
    for place, trial in enumerate(blocks, start=1):
        trial.run(until=began + seconds * place / len(blocks))
        if time.monotonic() >= began + seconds:
            return
