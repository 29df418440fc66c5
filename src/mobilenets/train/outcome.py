"""What a training made."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundle import Bundle
from .checkpoint import Row

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What training made. `best` scored highest on the validation images, `last` is the end of the schedule."""

    best: Bundle
    last: Bundle
    rows: tuple[Row, ...]
    finished: bool  # False: interrupted; the checkpoint goes on from here

    @property
    def goal(self) -> float:
        """What was to be maximised, of `best` on the validation images, in [0, 1]: top-1, or mean average precision."""
        return max(row.goal for row in self.rows) / 100

    @property
    def top1(self) -> float:
        """Validation accuracy of `best`, a classifier, in [0, 1]."""
        return max(row.eval_top1 for row in self.rows if row.eval_top1 is not None) / 100
