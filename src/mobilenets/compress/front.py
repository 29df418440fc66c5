"""Accuracy against mult-adds over the widths and resolutions of one training: the V1 paper's Figure 4 of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import UsageError

__all__ = ["GridPoint", "best_of", "draw_front", "grid_csv"]

DPI = 130
FONT = 9  # points
MARKS = ("o", "s", "^", "D", "X", "v", "P")  # of the resolutions, largest first


class GridPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, measured on `n` validation images."""

    model: str
    alpha: float
    resolution: int  # pixels a side
    mult_adds: int
    parameters: int
    top1: float  # per cent, like all of the following
    top1_low: float  # 95 %, Wilson
    top1_high: float
    n: int


def best_of(points: Sequence[GridPoint]) -> tuple[GridPoint, ...]:
    """Those that no other beats in accuracy with as many mult-adds or fewer, cheapest first."""
    best: list[GridPoint] = []
    for point in sorted(points, key=lambda point: (point.mult_adds, -point.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return tuple(best)


def grid_csv(points: Sequence[GridPoint]) -> str:
    """A header and one line per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(GridPoint.__struct_fields__)
    for point in points:
        values = msgspec.structs.astuple(point)
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return text.getvalue()


def draw_front(points: Sequence[GridPoint], *, title: str) -> bytes:
    """The bytes of a PNG: a line for each width, a mark for each resolution, and the front of them all.

    Raises:
        UsageError: there are no points.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator

    if not points:
        raise UsageError("a picture of no points", wanted="at least one", do="measure a slice first")
    # a figure of its own; pyplot would keep it in a list of the process
    figure = Figure(figsize=(7.0, 5.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    _widths(axes, points)
    front = best_of(points)
    axes.plot([p.mult_adds for p in front], [p.top1 for p in front], color="#333333", linewidth=1.0, label="front")
    axes.set_xscale("log")
    axes.xaxis.set(
        major_formatter=EngFormatter(), minor_formatter=EngFormatter(), minor_locator=LogLocator(subs=(2, 5))
    )
    axes.grid(which="major", alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=FONT - 1)
    axes.set_xlabel("mult-adds (log scale)", fontsize=FONT)
    axes.set_ylabel(f"validation top-1 (%), {points[0].n:,} images", fontsize=FONT)
    axes.set_title(title, fontsize=FONT + 1)
    axes.legend(loc="lower right", ncols=2, fontsize=FONT - 1, framealpha=0.95)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _widths(axes: Any, points: Sequence[GridPoint]) -> None:
    from matplotlib import colormaps

    alphas = sorted({point.alpha for point in points}, reverse=True)
    sides = sorted({point.resolution for point in points}, reverse=True)
    for number, alpha in enumerate(alphas):
        colour = colormaps["viridis"](0.9 * number / max(1, len(alphas) - 1))  # widths are an order, and so are colours
        own = sorted((p for p in points if p.alpha == alpha), key=lambda point: point.resolution)
        axes.plot([p.mult_adds for p in own], [p.top1 for p in own], color=colour, alpha=0.45)
        for point in own:
            mark = MARKS[sides.index(point.resolution) % len(MARKS)]
            axes.plot(point.mult_adds, point.top1, mark, color=colour, markersize=7, markeredgecolor="white")
        axes.plot([], [], color=colour, linewidth=3, label=f"alpha {alpha:g}")
    for number, side in enumerate(sides):
        axes.plot([], [], MARKS[number % len(MARKS)], color="#555555", markersize=6, label=f"{side} x {side}")
