"""The ledger as a table for people: one line a step, each number with its difference to what stood before."""

from __future__ import annotations

from collections.abc import Callable

from .records import Judged, Ledger, Line, Measured, Ratio

__all__ = ["to_markdown"]

HEADER = ("step", "verdict", "val top-1", "test top-1", "MB", "M mult-adds", "ms", "times as fast", "than the start")


def to_markdown(ledger: Ledger) -> str:
    """`ledger.md`: the table, why each step stands or does not, what is handed out, and how it was measured."""
    lines = [f"# {ledger.plan.model}, compressed", "", _row(HEADER), _row(["---"] * len(HEADER))]
    for number, line in enumerate(ledger.lines):
        lines.append(_row(_cells(line, before=_before(ledger, number))))
    lines += ["", "In brackets: the difference to what stood before that step.", ""]
    lines += [f"- {line.step}: {line.verdict}: {line.why}" for line in ledger.lines]
    if ledger.finished:
        lines += ["", _delivered(ledger)]
    first = ledger.lines[0].measured if ledger.lines else None
    if first is not None:
        lines += ["", _conditions(ledger, first)]
    return "\n".join(lines) + "\n"


def _before(ledger: Ledger, number: int) -> Measured | None:
    """What stood before line `number`; None for the start."""
    return ledger.lines[ledger.standing(number)].measured if number else None


def _cells(line: Line, *, before: Measured | None) -> list[str]:
    now = line.measured
    if now is None:
        return [line.step, line.verdict, *[""] * (len(HEADER) - 2)]
    return [
        line.step,
        line.verdict,
        _share(now.val) + _change(now, before, lambda m: 100 * m.val.top1, "+.2f"),
        "" if now.test is None else _share(now.test),
        f"{now.size_mb:.3f}" + _change(now, before, lambda m: m.size_mb, "+.3f"),
        f"{now.mult_adds / 1e6:.2f}" + _change(now, before, lambda m: m.mult_adds / 1e6, "+.2f"),
        f"{now.latency.median_ms:.3f} ({now.latency.low_ms:.3f} to {now.latency.high_ms:.3f})",
        _times(now.faster_than_before),
        _times(now.faster_than_start),
    ]


def _share(judged: Judged) -> str:
    return f"{100 * judged.top1:.2f} %"


def _change(now: Measured, before: Measured | None, of: Callable[[Measured], float], form: str) -> str:
    return "" if before is None else f" ({of(now) - of(before):{form}})"


def _times(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _delivered(ledger: Ledger) -> str:
    line, first = ledger.lines[ledger.standing()], ledger.lines[0].measured
    now = line.measured
    if now is None or first is None or now is first:
        said = "No step stands: best and artifact are the start."
    else:
        said = (
            f"best and artifact are what stands after {line.step}: {first.size_mb / now.size_mb:.2f} times smaller "
            f"than the start, {100 * (now.val.top1 - first.val.top1):+.2f} points on the validation images"
        )
        if now.test is not None and first.test is not None:
            said += f", {100 * (now.test.top1 - first.test.top1):+.2f} on the test images"
        said += "."
    return said if ledger.over is None else f"{said} The bound is not kept: {ledger.over}."


def _conditions(ledger: Ledger, first: Measured) -> str:
    """A number carries its conditions."""
    test = "" if first.test is None else f" and {first.test.n} test images"
    return (
        f"Accuracy: of the files, on {first.val.n} validation{test}. Latency: batch 1, {first.latency.engine} "
        f"{first.latency.engine_version}, {ledger.plan.threads} thread{'s' * (ledger.plan.threads > 1)}, each artifact "
        f"in a process of its own, timed in turn; medians and 95 % intervals by order statistics over the rounds; "
        f"times as fast: paired by round with what stood before, and with the start. {ledger.environment.cpu}, "
        f"{ledger.environment.cores} cores, {ledger.environment.date}."
    )


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
