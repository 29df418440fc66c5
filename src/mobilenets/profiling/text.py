"""A profile as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..records import Precision
from .records import Part, Peaks, Profile

__all__ = ["explained", "peaks_text", "to_text"]

HEADER: Final = ["part", "what", "ms", "%", "ops", "M mult-adds", "MB", "MB moved", "least ms", "why"]
LEFT: Final = (0, 1, 9)  # columns of words


def to_text(profile: Profile) -> str:
    """An aligned table, the whole and the conditions below it; ends with a newline."""
    rows = [_row(part) for part in profile.parts]
    sums = [f"{sum(part.ms for part in profile.parts):.3f}", "100.0"]
    sums += [str(len(profile.operators)), f"{sum(part.mult_adds for part in profile.parts) / 1e6:.1f}"]
    sums += [f"{sum(getattr(part, name) for part in profile.parts) / 1e6:.2f}" for name in _BYTES]
    rows.append(["sum", "", *sums, f"{profile.roofline_ms:.3f}" if profile.table else "-", ""])
    lines = _align([HEADER, *rows])
    if not profile.table:
        lines.append(
            "the table behind this artifact is not known, or its operators bear no names of it: here are kinds of"
            " operators; export the bundle again for rows"
        )
    elif profile.roofline_ms:
        lines.append(
            f"without the profiler {profile.latency_ms:.3f} ms, of which the machine's peaks explain"
            f" {profile.roofline_ms:.3f} ms: {explained(profile.roofline_ms / profile.latency_ms)}"
        )
    lines.append(
        f"{profile.engine} {profile.version}, {profile.precision}, {profile.threads} thread(s), batch"
        f" {profile.batch_size}, mean of {profile.runs} runs; {profile.cpu}"
    )
    lines += peaks_text(profile.peaks)
    return "\n".join(lines) + "\n"


def peaks_text(peaks: Peaks) -> list[str]:
    """The machine's peaks in two lines."""
    products = ", ".join(
        f"{each.precision} {each.mult_adds_per_second / 1e9:.3g}" for each in map(peaks.rate, _precisions(peaks))
    )
    copies = ", ".join(
        f"{each.bytes_per_second / 1e9:.3g} within {each.working_set_bytes / 2**20:g} MiB" for each in peaks.bandwidth
    )
    return [
        f"peaks with {peaks.threads} thread(s): matrix products {products} G mult-adds/s",
        f"  memory, read and written: {copies} GB/s",
    ]


def explained(fraction: float) -> str:
    """A share of the roofline; above all of it, what that means."""
    told = f"{100 * fraction:.0f} %"
    return told if fraction <= 1 else f"{told} (the machine was busier while its peaks were measured)"


_BYTES: Final = ("needed_bytes", "moved_bytes")


def _precisions(peaks: Peaks) -> list[Precision]:
    return list(dict.fromkeys(each.precision for each in peaks.gemm))


def _row(part: Part) -> list[str]:
    table = part.mult_adds > 0
    return [
        part.part.removeprefix("rows.") if table else part.part,
        part.what,
        f"{part.ms:.3f}",
        f"{100 * part.share:.1f}",
        str(part.operators),
        f"{part.mult_adds / 1e6:.1f}" if table else "-",
        f"{part.needed_bytes / 1e6:.2f}" if table else "-",
        f"{part.moved_bytes / 1e6:.2f}",
        f"{part.roofline_ms:.3f}" if table else "-",
        part.reason,
    ]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
