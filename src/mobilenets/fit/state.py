"""What a fit has found out so far, on disk after every step, so that it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..errors import UsageError
from ..files import write_json
from ..records import read_record, to_json
from .records import Candidate, RoundResult, Status

__all__ = ["Clock", "Plan", "State", "open_state", "save_state"]

STATE_NAME = "state.json"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Who is trained, and for how long; made once, after latencies are known."""

    entrants: tuple[int, ...]  # indices of candidates
    rounds: tuple[tuple[int, float], ...]  # (how many enter, seconds each)
    final_seconds: float
    together: bool = False  # the one round is an elastic training of all entrants at once


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A fit as far as it has come."""

    identity: str
    seconds: float = 0.0  # used so far, over all sessions
    candidates: tuple[Candidate, ...] = ()
    latency_note: str = ""
    plan: Plan | None = None
    results: tuple[tuple[int, RoundResult], ...] = ()  # (candidate, what a round's training came to)
    winner: int | None = None
    finished: bool = False

    def last_top1(self, candidate: int) -> float:
        """Validation accuracy after the candidate's last round; -1 before any."""
        return max(
            ((r.round, r.top1) for c, r in self.results if c == candidate),
            default=(0, -1.0),
        )[1]

    def standing(self, number: int) -> tuple[int, ...]:
        """Who enters round `number` (from 1), or, past the last one, who has won: best first."""
        if self.plan is None:
            return ()
        field = self.plan.entrants
        if number > 1:
            field = tuple(sorted(field, key=lambda c: -max(self._tops(c, before=number))))
        counts = [count for count, _ in self.plan.rounds] + [1]
        return field[: counts[number - 1]]

    def fates(self, chosen: int, refusals: Mapping[int, str]) -> tuple[Candidate, ...]:
        """The candidates with what became of those that were trained.

        Args:
            chosen: index of the one that is delivered.
            refusals: why a gate or the last measurement refused, by index.
        """
        fates = list(self.candidates)
        best = self.last_top1(chosen)
        for place in () if self.plan is None else self.plan.entrants:
            rounds = tuple(r for c, r in self.results if c == place)
            told = "; ".join(f"round {r.round}: {100 * r.top1:.1f} % after {r.seconds:.0f} s" for r in rounds)
            status: Status = "dropped"
            why = f"{told}; the choice had {100 * best:.1f} %"
            if place in refusals:
                status, why = "refused by a gate", refusals[place]
            if place == chosen:
                status, why = "chosen", told or "the only one there was time for"
            fates[place] = msgspec.structs.replace(fates[place], status=status, why=why, rounds=rounds)
        return tuple(fates)

    def _tops(self, candidate: int, *, before: int) -> list[float]:
        done = [r for c, r in self.results if c == candidate and r.round < before]
        # Who came further stands above who was dropped earlier, whatever the numbers.
        return [1000.0 * r.round + r.top1 for r in done] or [-1.0]


class Clock:
    """Seconds used by a fit, those of earlier sessions included."""

    def __init__(self, before: float) -> None:
        self._before = before
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Used so far."""
        return self._before + time.monotonic() - self._start


def open_state(folder: Path, *, identity: str) -> State:
    """The state in `folder`, or a new one.

    Raises:
        UsageError: the folder holds another fit.
        FileFormatError: the state cannot be read.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return State(identity=identity)
    state = read_record(path, State, what="state of a fit")
    if state.identity != identity:
        raise UsageError(
            f"{folder} holds another fit: its data, budget, time or choices differ",
            wanted="the same command as before, to go on with it",
            do="repeat that command, or give another folder with -o",
        )
    return state


def save_state(folder: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    write_json(folder / STATE_NAME, to_json(state))
