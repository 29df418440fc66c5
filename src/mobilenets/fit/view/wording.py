"""Numbers as people read them, and the sentence that says whether the choice fits."""

from __future__ import annotations

import math

from ...records import Gate
from ..records import Accuracy, Budget, Candidate, Delivered, FitReport

__all__ = [
    "accuracy_phrase",
    "chosen_candidate",
    "count",
    "data_split",
    "duration",
    "headline",
    "learned_nothing",
    "limits_broken",
    "limits_of",
    "measured_on",
    "megabytes",
    "millions",
    "ms",
    "percent",
    "plural",
    "short",
    "title_of",
]

NBSP = "\u00a0"  # keeps a number and its unit on one line
SPLITS = {"train": "training", "val": "validation", "test": "test"}


def ms(value: float, *, unit: bool = True) -> str:
    """Milliseconds: 0.912 is 0.91, 12.34 is 12.3, 148.2 is 148."""
    return _rounded(value) + (f"{NBSP}ms" if unit else "")


def megabytes(value: float, *, unit: bool = True) -> str:
    """Millions of bytes."""
    return _rounded(value) + (f"{NBSP}MB" if unit else "")


def millions(value: float, *, unit: bool = True) -> str:
    """A count in millions."""
    return _rounded(value / 1e6) + (f"{NBSP}M" if unit else "")


def percent(share: float, *, unit: bool = True) -> str:
    """A share in [0, 1] as per cent with one decimal; only 1 itself is 100."""
    if not math.isfinite(share):
        return "unknown"
    shown = f"{100 * share:.1f}"
    if shown == "100.0" and share < 1:
        shown = "99.9"
    return shown + (f"{NBSP}%" if unit else "")


def count(value: int) -> str:
    """10000 is 10,000."""
    return f"{value:,}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """`3 images`, `1 image`."""
    return f"{n:,}{NBSP}{one if n == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """41.3 is 41 s, 581 is 9 min 41 s, 8100 is 2 h 15 min."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min" + (f"{NBSP}{whole % 60}{NBSP}s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NBSP}h" + (f"{NBSP}{minutes % 60}{NBSP}min" if minutes % 60 else "")


def short(text: str, *, length: int) -> str:
    """At most `length` characters; the middle goes first, because long names differ at their ends."""
    if len(text) <= length:
        return text
    kept = length - 1
    return f"{text[: (kept + 1) // 2]}\u2026{text[len(text) - kept // 2 :]}"


def measured_on(gate: Gate) -> str:
    """`10,000 test images`, or what else a gate was measured on: `21 rounds timed in turn`."""
    return f"{gate.n:,} {SPLITS[gate.on]} images" if gate.on in SPLITS else f"{gate.n:,} {gate.on}"


def title_of(candidate: Candidate) -> str:
    """Its name, with the precision where that is not the usual one."""
    return candidate.name if candidate.precision == "fp32" else f"{candidate.name} {candidate.precision}"


def data_split(name: str) -> str:
    """A split's name in words."""
    return SPLITS.get(name, name)


def chosen_candidate(report: FitReport) -> Candidate | None:
    """The candidate that was chosen; None if the report does not hold it."""
    marked = [c for c in report.candidates if c.status == "chosen"]
    named = [c for c in report.candidates if c.name == report.chosen]
    return next((c for c in marked if c.name == report.chosen), None) or next(iter(named or marked), None)


def limits_of(budget: Budget) -> str:
    """The budget in words."""
    limits = [
        f"{ms(budget.latency_ms)} on {plural(budget.threads, 'thread')}" if budget.latency_ms is not None else None,
        megabytes(budget.size_mb) if budget.size_mb is not None else None,
        f"{millions(1e6 * budget.mult_adds_m)} mult-adds" if budget.mult_adds_m is not None else None,
    ]
    return ", ".join(limit for limit in limits if limit)


def limits_broken(report: FitReport, delivered: Delivered) -> list[str]:
    """Which limits of the budget an artifact breaks, in words; latency is judged by the interval's upper end."""
    budget, candidate, latency = report.budget, chosen_candidate(report), delivered.latency
    broken = []
    if budget.latency_ms is not None and latency.high_ms > budget.latency_ms:
        broken.append(f"{ms(latency.low_ms)} to {ms(latency.high_ms)} of {ms(budget.latency_ms)}")
    if budget.size_mb is not None and delivered.size_mb > budget.size_mb:
        broken.append(f"{megabytes(delivered.size_mb)} of {megabytes(budget.size_mb)}")
    if budget.mult_adds_m is not None and candidate is not None and candidate.mult_adds > 1e6 * budget.mult_adds_m:
        broken.append(f"{millions(candidate.mult_adds)} of {millions(1e6 * budget.mult_adds_m)} mult-adds")
    return broken


def headline(report: FitReport) -> tuple[str, str]:
    """The verdict and what it rests on: ("fits", "0.91 ms of 1.50 ms, 86.4 % on 10,000 test images")."""
    if not report.delivered:
        return "was chosen, but nothing was delivered", "; ".join(
            report.not_delivered
        ) or "no artifact passed its gates"
    first = report.delivered[0]
    accuracy = accuracy_phrase(first)
    if broken := limits_broken(report, first):
        return "does not keep to the budget", f"{', '.join(broken)}; {accuracy}"
    budget, candidate = report.budget, chosen_candidate(report)
    if budget.latency_ms is not None:
        cost = f"{ms(first.latency.median_ms)} of {ms(budget.latency_ms)}"
    elif budget.size_mb is not None:
        cost = f"{megabytes(first.size_mb)} of {megabytes(budget.size_mb)}"
    elif candidate is not None and budget.mult_adds_m is not None:
        cost = f"{millions(candidate.mult_adds)} of {millions(1e6 * budget.mult_adds_m)} mult-adds"
    else:
        cost = limits_of(budget)
    precision = f" as {first.precision}" if first.precision != "fp32" else ""
    if guess := learned_nothing(first.accuracy, report.labels):
        return "fits, but is not shown to have learned anything", f"{cost}, {accuracy}{precision}; {guess}"
    return "fits", f"{cost}, {accuracy}{precision}"


def accuracy_phrase(delivered: Delivered) -> str:
    """`86.4 % on 10,000 test images`."""
    accuracy = delivered.accuracy
    images = plural(accuracy.n, f"{data_split(accuracy.split)} image")
    return f"{percent(accuracy.top1)} on {images}"


def learned_nothing(accuracy: Accuracy, labels: tuple[str, ...]) -> str:
    """What to say where these images do not tell an accuracy from that of one answer for all of them; else nothing."""
    counts = [sum(row) for row in accuracy.confusion]
    largest = max(range(len(counts)), key=counts.__getitem__)
    share = counts[largest] / max(1, sum(counts))
    if accuracy.top1_low > share or accuracy.top1 == 1:
        return ""
    return f"always answering {labels[largest]!r} would get {percent(share)}: give it more time, or more images"


def _rounded(value: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.0995 or value == 0 else f"{value:.2g}"
