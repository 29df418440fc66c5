"""Whether a step pays: what it may cost, and what it must bring."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, NamedTuple

from ..errors import UsageError
from ..records import LAST_DIGITS
from .records import Measured, Verdict

__all__ = ["SMALLER", "Gain", "Judgement", "judge"]

Gain = Literal["accuracy", "cost"]

SMALLER: Final = 0.01  # a file must lose so much of its size: names and rounding move some bytes


class Judgement(NamedTuple):
    """What becomes of a step."""

    verdict: Verdict
    why: str
    lost: bool  # more points than may be


def judge(
    tried: Measured, *, start: Measured, before: Measured, max_drop: float, pays_by: Collection[Gain]
) -> Judgement:
    """Keep a step, or take it back, and why.

    What is lost counts from the start, over all steps that stand: several small losses are one large one. What is
    gained counts from what stood before the step: "cost" is to be surely faster (the whole 95 % interval of the paired
    ratio above 1) or smaller, "accuracy" to be more often right on the same validation images.

    Args:
        tried: what the step made; timed beside `before`.
        start: what it all began with.
        before: what stood before the step.
        max_drop: points of validation top-1 that may be lost.
        pays_by: what the step is for; one of these is enough.

    Raises:
        UsageError: the accuracies are not of the same images.
    """
    if not tried.val.n == start.val.n == before.val.n:
        raise UsageError(
            f"accuracies of {tried.val.n}, {before.val.n} and {start.val.n} images",
            wanted="the same validation images for all",
            do="begin anew",
        )
    drop = _points(start, tried)
    if drop > max_drop + LAST_DIGITS:
        said = (
            f"top-1 {100 * tried.val.top1:.2f} % is {drop:.2f} points below the start's {100 * start.val.top1:.2f} %, "
            f"and {max_drop:g} may be lost"
        )
        return Judgement("rolled back", said, lost=True)
    gains: list[str] = []
    lacks: list[str] = []
    if "accuracy" in pays_by:
        gained = _points(tried, before)
        (gains if gained > 0 else lacks).append(f"{gained:+.2f} points")
    if "cost" in pays_by:
        ratio = tried.faster_than_before
        if ratio is not None:
            words = f"{ratio.value:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f})"
            (gains if ratio.low > 1 else lacks).append(words)
        share = tried.size_mb / before.size_mb
        (gains if share < 1 - SMALLER else lacks).append(f"{share:.2f} times the size")
    if gains:
        return Judgement("kept", ", ".join(gains) + (f", but {', '.join(lacks)}" if lacks else ""), lost=False)
    return Judgement("rolled back", f"it brings nothing: {', '.join(lacks)}", lost=False)


def _points(one: Measured, other: Measured) -> float:
    """How many points of top-1 the other lies below the one."""
    return 100 * (one.val.top1 - other.val.top1)
