"""A fit in at most twelve lines, for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from .records import Delivered, FitReport
from .view.markup import plain
from .view.wording import (
    NBSP,
    accuracy_phrase,
    chosen_candidate,
    duration,
    headline,
    learned_nothing,
    measured_on,
    megabytes,
    millions,
    ms,
    percent,
    plural,
)

__all__ = ["summary_text"]


def summary_text(report: FitReport, *, folder: Path) -> str:
    """What was chosen, what was measured of it, and where it is: at most 12 lines, the last with a newline.

    Args:
        report: of the fit.
        folder: of the fit, as a person would type it.
    """
    verdict, numbers = headline(report)
    lines = [f"{report.chosen} {verdict}"]
    if not report.delivered:
        lines.append(f"  {numbers}")
    else:
        first = report.delivered[0]
        rows = [
            ("latency", _latency(report, first)),
            ("accuracy", _accuracy(report, first)),
            ("size", _size(report, first)),
            *_weights(report),
            ("gates", _gates(report)),
            *(("also", _also(other, folder)) for other in report.delivered[1:2]),
            *(("not", reason) for reason in report.not_delivered[:2]),
            ("time", f"{duration(report.took_seconds)} of {duration(report.asked_seconds)} asked for"),
            ("report", str(folder / "report.html")),
            ("try", f"mobilenets predict {shlex.quote(str(folder / first.path))} IMAGE"),
        ]
        lines += [f"  {name:<9}{' '.join(words.split())}" for name, words in rows]
    return "\n".join(plain(line) for line in lines).replace(NBSP, " ") + "\n"


def _latency(report: FitReport, first: Delivered) -> str:
    latency, limit = first.latency, report.budget.latency_ms
    budget = f" of {ms(limit)}" if limit is not None else ""
    interval = f"95 % interval {ms(latency.low_ms, unit=False)} to {ms(latency.high_ms, unit=False)}"
    engine = f"{plural(latency.threads, 'thread')}, {latency.engine} {latency.engine_version}"
    engine += f", on {report.device.cpu}" if report.device is not None else ""
    return f"{ms(latency.median_ms)}{budget} ({interval}; {plural(latency.n, 'run')}, {engine})"


def _accuracy(report: FitReport, first: Delivered) -> str:
    accuracy = first.accuracy
    interval = f"95 % interval {percent(accuracy.top1_low, unit=False)} to {percent(accuracy.top1_high, unit=False)}"
    held_out = "" if accuracy.split == "test" else ", which also chose the model"
    guess = learned_nothing(accuracy, report.labels)
    return f"{accuracy_phrase(first)}{held_out} ({interval})" + (f"; {guess}" if guess else "")


def _size(report: FitReport, first: Delivered) -> str:
    limit, candidate = report.budget.size_mb, chosen_candidate(report)
    words = megabytes(first.size_mb) + (f" of {megabytes(limit)}" if limit is not None else "")
    if candidate is None:
        return words
    most = report.budget.mult_adds_m
    allowed = f" of {millions(1e6 * most)}" if most is not None else ""
    return f"{words}, {millions(candidate.mult_adds)}{allowed} mult-adds, {millions(candidate.parameters)} parameters"


def _weights(report: FitReport) -> list[tuple[str, str]]:
    chosen = chosen_candidate(report)
    return [("weights", f"begun from {chosen.start}")] if chosen is not None and chosen.start is not None else []


def _gates(report: FitReport) -> str:
    gates = report.delivered[0].gates
    passed = sum(gate.passed for gate in gates)
    signs = {"at_most": "<=", "at_least": ">="}
    told = ", ".join(f"{gate.name} {gate.value:.3g} {signs[gate.passes]} {gate.limit:g}" for gate in gates)
    where = ", ".join(dict.fromkeys(measured_on(gate) for gate in gates))
    return f"{passed} of {len(gates)} passed" + (f" on {where}: {told}" if gates else "")


def _also(other: Delivered, folder: Path) -> str:
    return (
        f"{other.precision}: {ms(other.latency.median_ms)}, {accuracy_phrase(other)}, "
        f"{megabytes(other.size_mb)}, {folder / other.path}"
    )
