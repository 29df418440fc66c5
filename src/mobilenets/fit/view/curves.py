"""The final training as curves: accuracy, losses and learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..records import FitReport, TrainingRow
from .markup import Html, el
from .scales import Scale
from .svg import both_widths, figure, grid_x, grid_y, line, picture, text
from .wording import duration, percent, plural

__all__ = ["training_picture"]

TOP1_HEIGHT, LOSS_HEIGHT, RATE_HEIGHT, GAP = 190.0, 120.0, 56.0, 46.0


def training_picture(report: FitReport) -> Html:
    """The curves with a caption; a sentence where nothing was recorded."""
    rows = [row for row in report.training if math.isfinite(row.seconds)]
    if not rows:
        return el("p.soft", "No validation during the final training was recorded.")
    if len(rows) == 1:
        (row,) = rows
        words = f"{percent(row.eval_top1 / 100)} top-1 and a loss of {row.eval_loss:.3g} on the validation images"
        return el("p", f"There was one validation, after {duration(row.seconds)} in epoch {row.epoch:.3g}: {words}.")
    finite = [row for row in rows if math.isfinite(row.eval_top1)]
    told = [f"{plural(len(rows), 'validation')} in {duration(report.training_seconds)} of training"]
    if finite:
        best = max(finite, key=lambda row: row.eval_top1)
        told.append(f"best {percent(best.eval_top1 / 100)} in epoch {best.epoch:.3g}, at {duration(best.seconds)}")
        told.append(f"last {percent(finite[-1].eval_top1 / 100)}")
    broken = len(rows) - len([row for row in rows if math.isfinite(row.train_loss) and math.isfinite(row.eval_loss)])
    if broken:
        told.append(f"{plural(broken, 'row')} with a loss that is not a number")
    return figure(both_widths(lambda width: _draw(rows, width=width)), "; ".join(told) + ".")


def _draw(rows: Sequence[TrainingRow], *, width: float) -> Html:
    unit, name = _unit(rows[-1].seconds)
    left, right = 52.0, width - (90 if width > 500 else 74)
    first = min(0.0, rows[0].seconds / unit)
    x = Scale(first, max(rows[-1].seconds / unit, first + 1e-6), left, right)
    top = 26.0
    parts: list[Html] = []

    def panel(
        title: str, height: float, ticks: int, curves: Sequence[tuple[str, str, Callable[[TrainingRow], float]]]
    ) -> None:
        nonlocal top
        values = [value for _, _, get in curves for row in rows if math.isfinite(value := get(row))]
        y = Scale.around(values, start=top + height, end=top, positive=False)
        if values and min(values) < max(values):
            y = Scale(min(values), max(values), y.start, y.end)
        y = y.rounded(about=ticks)
        parts.append(text(title, left - 40, top - 12, kind="name"))
        parts.extend(grid_y(y, left=left, right=right, about=ticks))
        ends: list[float] = []
        for kind, words, get in curves:
            spots = [(x(row.seconds / unit), y(get(row)), row) for row in rows if math.isfinite(get(row))]
            if not spots:
                continue
            parts.append(el(f"polyline.{kind}", at={"points": " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in spots)}))
            for a, b, row in spots:
                told = f"epoch {row.epoch:.3g}, {duration(row.seconds)}: {words or title} {get(row):.4g}"
                parts.append(el(f"circle.{kind}.spot", el("title", told), at={"cx": a, "cy": b, "r": 2.4}))
            level = spots[-1][1] + 4
            while any(abs(level - other) < 13 for other in ends):  # two curves that end together
                level += 1.0 if level >= min(ends) else -1.0
            ends.append(level)
            if kind == "rate":
                continue  # where it ends says nothing
            parts.append(text(words or f"{get(spots[-1][2]):.3g}", spots[-1][0] + 8, level, kind=f"{kind}.end"))
        top += height + GAP

    panel("top-1 on validation images, %", TOP1_HEIGHT, 5, [("eval", "", lambda row: row.eval_top1)])
    panel(
        "loss",
        LOSS_HEIGHT,
        4,
        [("eval", "validation", lambda row: row.eval_loss), ("train", "training", lambda row: row.train_loss)],
    )
    if len({row.lr for row in rows}) > 1:
        panel("learning rate", RATE_HEIGHT, 2, [("rate", "", lambda row: row.lr)])
    floor = top - GAP
    parts += grid_x(x, bottom=floor, about=8 if width > 500 else 5, name=f"time, {name}")
    parts.append(line(left, 26, left, floor, kind="grid"))
    label = "Accuracy, losses and learning rate during the final training; report.json holds every value"
    return picture(*parts, width=width, height=floor + 46, label=label)


def _unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 240 else (1.0, "seconds")
