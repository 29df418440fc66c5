"""A bench report as a table for people, and as CSV with the column names of timm's benchmark.py."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..records import Report

__all__ = ["to_csv", "to_text"]


def to_text(report: Report) -> str:
    """An aligned table, ratios and conditions below it; ends with a newline."""
    engines = report.protocol["engines"]
    rows = [
        [
            what,
            engines[what],
            f"{report.value(what, 'latency_ms'):.2f}",
            f"{report.value(what, 'latency_ms_low'):.2f} to {report.value(what, 'latency_ms_high'):.2f}",
            f"{report.value(what, 'latency_ms_p95'):.2f}",
            f"{report.value(what, 'images_per_second'):.0f}",
            _known(report, what, "size_mb", digits=2),
            _known(report, what, "parameters", digits=2, scale=1e6),
            _known(report, what, "mult_adds", digits=1, scale=1e6),
        ]
        for what in _measured(report)
    ]
    header = ["artifact", "engine", "median ms", "95 % interval", "p95 ms", "images/s", "MB", "M params", "M mult-adds"]
    lines = _align([header, *rows])
    for row in report.rows:
        if row.metric == "latency_ratio":
            low, high = (report.value(row.what, f"latency_ratio_{end}") for end in ("low", "high"))
            lines.append(f"{row.what} = {row.value:.3f} ({low:.3f} to {high:.3f}), {row.n} rounds side by side")
    protocol, environment = report.protocol, report.environment
    joules = {row.what: row.value for row in report.rows if row.metric == "joules_per_image"}
    if joules:
        used = ", ".join(f"{what} {value:.3g}" for what, value in joules.items())
        lines.append(f"joules per image, of the whole machine: {used}")
    elif "energy" in protocol:
        lines.append(f"energy: {protocol['energy']}")
    lines.append(
        f"{protocol['timed'].partition(';')[0]}; {protocol['threads']} thread(s), batch {protocol['batch_size']}, "
        f"{protocol['rounds']} rounds; {environment.cpu}, {environment.cores} core(s)"
    )
    return "\n".join(lines) + "\n"


def to_csv(report: Report) -> str:
    """One line per artifact; what is not known of a peer is left empty.

    timm's columns: infer_step_time is in ms per batch, param_count in millions, infer_gmacs in 1e9 mult-adds. Ours
    follow: the interval and the 95th percentile in ms, the file's size, joules where the machine tells them, and the
    conditions.
    """
    protocol = report.protocol
    lines = [
        {
            "model": what,
            "infer_samples_per_sec": round(report.value(what, "images_per_second"), 2),
            "infer_step_time": round(report.value(what, "latency_ms"), 3),
            "infer_batch_size": protocol["batch_size"],
            "infer_img_size": _column(report, what, "resolution", digits=None),
            "infer_gmacs": _column(report, what, "mult_adds", digits=4, scale=1e9),
            "param_count": _column(report, what, "parameters", digits=4, scale=1e6),
            "latency_ms_low": round(report.value(what, "latency_ms_low"), 3),
            "latency_ms_high": round(report.value(what, "latency_ms_high"), 3),
            "latency_ms_p95": round(report.value(what, "latency_ms_p95"), 3),
            "size_mb": _column(report, what, "size_mb", digits=4),
            "joules_per_image": _column(report, what, "joules_per_image", digits=6),
            "threads": protocol["threads"],
            "engine": protocol["engines"][what],
            "cpu": report.environment.cpu,
        }
        for what in _measured(report)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _column(report: Report, what: str, metric: str, *, digits: int | None, scale: float = 1.0) -> float | str:
    """A number that may be missing, rounded."""
    try:
        return round(report.value(what, metric) / scale, digits)
    except KeyError:
        return ""


def _known(report: Report, what: str, metric: str, *, digits: int, scale: float = 1.0) -> str:
    """A number that may be missing, with so many digits."""
    value = _column(report, what, metric, digits=digits, scale=scale)
    return "-" if isinstance(value, str) else f"{value:.{digits}f}"


def _measured(report: Report) -> list[str]:
    return [row.what for row in report.rows if row.metric == "latency_ms"]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left in the first two columns, numbers to the right in the others."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column > 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
