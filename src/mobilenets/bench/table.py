"""A bench report as a table for people, and as CSV with the column names of timm's benchmark.py."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..records import Report

__all__ = ["to_csv", "to_text"]


def to_text(report: Report) -> str:
    """An aligned table, ratios and conditions below it; ends with a newline."""
    rows = [
        [
            what,
            f"{report.value(what, 'latency_ms'):.2f}",
            f"{report.value(what, 'latency_ms_low'):.2f} to {report.value(what, 'latency_ms_high'):.2f}",
            f"{report.value(what, 'latency_ms_p95'):.2f}",
            f"{report.value(what, 'images_per_second'):.0f}",
            f"{report.value(what, 'size_mb'):.2f}",
            f"{report.value(what, 'parameters') / 1e6:.2f}",
            f"{report.value(what, 'mult_adds') / 1e6:.1f}",
        ]
        for what in _measured(report)
    ]
    header = ["artifact", "median ms", "95 % interval", "p95 ms", "images/s", "MB", "M params", "M mult-adds"]
    lines = _align([header, *rows])
    for row in report.rows:
        if row.metric == "latency_ratio":
            low, high = (report.value(row.what, f"latency_ratio_{end}") for end in ("low", "high"))
            lines.append(f"{row.what} = {row.value:.3f} ({low:.3f} to {high:.3f}), {row.n} rounds side by side")
    protocol, environment = report.protocol, report.environment
    lines.append(
        f"{protocol['engine']} {protocol['engine_version']}, {protocol['threads']} thread(s), "
        f"batch {protocol['batch_size']}, {protocol['rounds']} rounds; {environment.cpu}, {environment.cores} core(s)"
    )
    return "\n".join(lines) + "\n"


def to_csv(report: Report) -> str:
    """One line per artifact.

    timm's columns: infer_step_time is in ms per batch, param_count in millions, infer_gmacs in 1e9 mult-adds. Ours
    follow: the interval and the 95th percentile in ms, the file's size, and the conditions.
    """
    protocol = report.protocol
    lines = [
        {
            "model": what,
            "infer_samples_per_sec": round(report.value(what, "images_per_second"), 2),
            "infer_step_time": round(report.value(what, "latency_ms"), 3),
            "infer_batch_size": protocol["batch_size"],
            "infer_img_size": round(report.value(what, "resolution")),
            "infer_gmacs": round(report.value(what, "mult_adds") / 1e9, 4),
            "param_count": round(report.value(what, "parameters") / 1e6, 4),
            "latency_ms_low": round(report.value(what, "latency_ms_low"), 3),
            "latency_ms_high": round(report.value(what, "latency_ms_high"), 3),
            "latency_ms_p95": round(report.value(what, "latency_ms_p95"), 3),
            "size_mb": round(report.value(what, "size_mb"), 4),
            "threads": protocol["threads"],
            "engine": f"{protocol['engine']} {protocol['engine_version']}",
            "cpu": report.environment.cpu,
        }
        for what in _measured(report)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _measured(report: Report) -> list[str]:
    return [row.what for row in report.rows if row.metric == "latency_ms"]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left in the first column, numbers to the right in the others."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
