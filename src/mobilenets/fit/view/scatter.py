"""The picture of what was weighed: cost against accuracy, one mark per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..records import Budget, Candidate, FitReport
from .markup import Html, el, join
from .scales import Box, Scale, place, text_width
from .svg import both_widths, figure, grid_x, grid_y, line, mark, picture, text
from .wording import chosen_candidate, megabytes, millions, ms, percent, plural, short, title_of

__all__ = ["anchor_of", "cost_picture", "families_of", "front_of"]

LANE = 15.0  # pixels of height for each family among the candidates that were never trained
Axis = Literal["latency_ms", "mult_adds_m", "size_mb"]
AXIS_NAMES: dict[Axis, str] = {
    "latency_ms": "latency of one image, ms",
    "mult_adds_m": "mult-adds of one image, millions",
    "size_mb": "size of the file, MB",
}


@dataclass(frozen=True)
class _Point:
    """A candidate with its place on the picture: cost on x with its interval, accuracy in per cent on y."""

    candidate: Candidate
    anchor: str
    family: int
    cost: float
    low: float
    high: float
    top1: float | None

    @property
    def told(self) -> str:
        """What the tooltip says."""
        c = self.candidate
        cost = f"{millions(c.mult_adds)} mult-adds, {megabytes(c.size_mb)}"
        if c.latency is not None:
            interval = f"{ms(c.latency.low_ms, unit=False)} to {ms(c.latency.high_ms)}"
            cost = f"{ms(c.latency.median_ms)} ({interval}, {c.latency.how}), {cost}"
        score = f"{percent(c.rounds[-1].top1)} after {plural(len(c.rounds), 'round')}, " if c.rounds else ""
        return f"{title_of(c)}: {score}{cost}. {c.status.capitalize()}: {c.why}"


def anchor_of(index: int) -> str:
    """The id of a candidate's row in the table."""
    return f"candidate-{index + 1}"


def families_of(candidates: Sequence[Candidate]) -> list[str]:
    """The families in the order of their names; the index chooses shape and colour."""
    return sorted({candidate.family for candidate in candidates})


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, accuracy) that no other beats in both; cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def cost_picture(report: FitReport) -> Html:
    """The picture with its legend and caption; links lead to the rows of the table."""
    axis = _axis(report.budget)
    families = families_of(report.candidates)
    points = [
        point
        for index, candidate in enumerate(report.candidates)
        if (point := _point(candidate, axis, anchor_of(index), families)) is not None
    ]
    if not points:
        return el("p.soft", f"No candidate has a {AXIS_NAMES[axis].split(',')[0]} to draw.")
    drawing = both_widths(lambda width: _draw(report, points, families, axis, width=width))
    return figure(join([_legend(families, points), drawing]), _caption(report, points, axis))


def _axis(budget: Budget) -> Axis:
    if budget.latency_ms is not None:
        return "latency_ms"
    return "mult_adds_m" if budget.mult_adds_m is not None else "size_mb"


def _limit(budget: Budget, axis: Axis) -> float | None:
    if axis == "latency_ms":
        return budget.latency_ms
    return budget.mult_adds_m if axis == "mult_adds_m" else budget.size_mb


def _point(candidate: Candidate, axis: Axis, anchor: str, families: Sequence[str]) -> _Point | None:
    if axis == "latency_ms":
        if candidate.latency is None:
            return None
        cost, low, high = candidate.latency.median_ms, candidate.latency.low_ms, candidate.latency.high_ms
    else:
        cost = candidate.mult_adds / 1e6 if axis == "mult_adds_m" else candidate.size_mb
        low = high = cost
    top1 = 100 * candidate.rounds[-1].top1 if candidate.rounds else None
    return _Point(candidate, anchor, families.index(candidate.family), cost, low, high, top1)


def _draw(report: FitReport, points: Sequence[_Point], families: Sequence[str], axis: Axis, *, width: float) -> Html:
    trained = [point for point in points if point.top1 is not None]
    waiting = [point for point in points if point.top1 is None]
    lanes = sorted({point.family for point in waiting})
    left, right, top = 52.0, width - 14, 40.0
    bottom = top + (330.0 if trained else 0.0)
    floor = bottom + (LANE * len(lanes) + 14 if lanes else 0.0)
    limit = _limit(report.budget, axis)
    ends = [end for point in points for end in (point.low, point.high)] + ([limit] if limit is not None else [])
    x = Scale.around(ends, start=left, end=right, positive=True)
    scores = [point.top1 for point in trained if point.top1 is not None]
    if scores:  # a span of a point at least: smaller differences are noise
        scores += [max(0.0, min(scores) - 0.5), min(100.0, max(scores) + 0.5)]
    y = Scale.around(scores, start=bottom, end=top, positive=False).rounded(about=6)
    y = Scale(max(0.0, y.low), min(100.0, y.high), bottom, top)
    room = Box(left + 2, top + 2, right - 2, bottom - 2)
    choice = chosen_candidate(report)
    parts: list[Html] = []
    taken: list[Box] = []
    if limit is not None:
        parts += _forbidden(x(limit), top=top, bottom=floor, right=right, width=width, axis=axis, limit=limit)
        taken.append(Box(x(limit) - 3, top, x(limit) + 3, bottom))
    if trained:
        parts += grid_y(y, left=left, right=right, about=6)
        parts.append(text("top-1 on validation images, %", left - 40, 12, kind="name"))
    parts += grid_x(x, bottom=floor, about=8 if width > 500 else 5, name=AXIS_NAMES[axis])
    for lane in range(len(lanes)):
        level = bottom + 14 + LANE * (lane + 0.5)
        parts.append(line(left, level, right, level, kind="lane"))
    if lanes:
        middle = (bottom + 14 + floor) / 2
        parts += [text(word, left - 8, middle + dy, anchor="end") for word, dy in (("not", -3), ("trained", 11))]
    front = front_of([(point.cost, point.top1) for point in trained if point.top1 is not None])
    if len(front) > 1:
        steps = f"M{x(front[0][0]):.1f} {y(front[0][1]):.1f}" + "".join(
            f"H{x(cost):.1f}V{y(accuracy):.1f}" for cost, accuracy in front[1:]
        )
        parts.append(el("path.front", at={"d": steps}))
        for (cost, accuracy), (further, better) in pairwise(front):
            taken.append(Box(x(cost), y(accuracy) - 2, x(further), y(accuracy) + 2))
            taken.append(Box(x(further) - 2, y(better), x(further) + 2, y(accuracy)))
    places = [(p, x(p.cost), y(p.top1)) for p in trained if p.top1 is not None]
    places += [(p, x(p.cost), bottom + 14 + LANE * (lanes.index(p.family) + 0.5)) for p in waiting]
    taken += [Box(px - 8, py - 8, px + 8, py + 8) for _, px, py in places]
    taken += [Box(px - 13, py - 13, px + 13, py + 13) for point, px, py in places if point.candidate is choice]
    taken += [Box(x(point.low), py - 2, x(point.high), py + 2) for point, _, py in places]
    for point, px, py in sorted(places, key=lambda it: it[0].candidate is choice):  # the choice lies on top
        parts.append(_linked(point, px, py, x, chosen=point.candidate is choice))
    parts += _labels(places, front, choice, room=room, taken=taken)
    label = f"{plural(len(points), 'candidate')} by {AXIS_NAMES[axis]} and accuracy; the table below has every number"
    return picture(*parts, width=width, height=floor + 46, label=label, group=True)


def _forbidden(
    at: float, *, top: float, bottom: float, right: float, width: float, axis: Axis, limit: float
) -> list[Html]:
    """The side of the budget where nothing may be: hatched, with a line and its name."""
    pattern = f"hatch-{width:g}"  # an id of its own for each drawing: a hidden one cannot lend its pattern
    hatch = el(
        "pattern",
        line(0, 0, 0, 7, kind="hatch"),
        at={
            "id": pattern,
            "width": 7,
            "height": 7,
            "patternUnits": "userSpaceOnUse",
            "patternTransform": "rotate(45)",
        },
    )
    area = {"x": at, "y": top, "width": max(0.0, right - at), "height": bottom - top}
    words = {"latency_ms": ms(limit), "mult_adds_m": f"{millions(1e6 * limit)}", "size_mb": megabytes(limit)}[axis]
    name = f"budget {words}"
    ends_left = at + text_width(name, size=12) + 4 > right
    return [
        el("defs", hatch),
        el("rect", at={**area, "fill": f"url(#{pattern})"}),
        line(at, top - 6, at, bottom, kind="budget"),
        text(name, at - 5 if ends_left else at + 5, top - 5, kind="limit", anchor="end" if ends_left else "start"),
    ]


def _linked(point: _Point, px: float, py: float, x: Scale, *, chosen: bool) -> Html:
    latency, trained = point.candidate.latency, point.top1 is not None
    whisker = None
    if trained and point.high > point.low and latency is not None:
        kind = "whisker" if latency.how == "measured" else "whisker.guess"
        whisker = line(x(point.low), py, x(point.high), py, kind=kind)
    size = 3.6 if not trained else 3.8 + 0.9 * min(3, len(point.candidate.rounds))
    return el(
        "a",
        el("title", point.told),
        whisker,
        el("circle.ring", at={"cx": px, "cy": py, "r": size + 5}) if chosen else None,
        mark(point.family, px, py, size=size, kind="" if trained else "hollow"),
        at={"href": f"#{point.anchor}", "aria-label": point.told},
    )


def _labels(
    places: Sequence[tuple[_Point, float, float]],
    front: Sequence[tuple[float, float]],
    choice: Candidate | None,
    *,
    room: Box,
    taken: list[Box],
) -> list[Html]:
    """Names: of the choice always, of the others on the front where there is room."""
    parts: list[Html] = []
    chosen = [it for it in places if it[0].candidate is choice and it[0].top1 is not None]
    others = [it for it in places if (it[0].cost, it[0].top1) in front and it not in chosen]
    for point, px, py in chosen + sorted(others, key=lambda it: -(it[0].top1 or 0)):
        must = point.candidate is choice
        size = 12.5 if must else 11.0
        name = short(title_of(point.candidate) if must else _brief(point.candidate), length=34)
        width = text_width(name, size=size) * (1.1 if must else 1.0) + 4  # the choice is set in bold
        box = place(px, py, width=width, height=size + 4, within=room, taken=taken, must=must)
        if box is None:
            continue
        taken.append(box)
        near_x, near_y = min(max(px, box.left), box.right), min(max(py, box.top), box.bottom)
        if abs(near_x - px) + abs(near_y - py) > 22:
            parts.append(line(px, py, near_x, near_y, kind="leader"))
        anchor, at = ("start", box.left + 2) if box.left >= px else ("middle", (box.left + box.right) / 2)
        if box.right <= px:
            anchor, at = "end", box.right - 2
        parts.append(text(name, at, box.bottom - 4.5, kind="choice" if must else "point", anchor=anchor))
    return parts


def _brief(candidate: Candidate) -> str:
    return title_of(candidate).removeprefix("mobilenet_")


def _legend(families: Sequence[str], points: Sequence[_Point]) -> Html:
    def item(sample: Html, words: str) -> Html:
        return el("li", el("svg.key", sample, at={"viewBox": "0 0 28 14", "aria-hidden": "true"}), words)

    shown = [family for index, family in enumerate(families) if any(point.family == index for point in points)]
    items = [item(mark(families.index(family), 14, 7, size=5), family) for family in shown]
    if any(point.top1 is None for point in points):
        items.append(item(mark(0, 14, 7, size=4, kind="hollow.plain"), "not trained"))
    trained = [point for point in points if point.top1 is not None]
    if any(point.candidate.status == "chosen" for point in points):
        ring = join(
            [el("circle.ring", at={"cx": 14, "cy": 7, "r": 6.2}), el("circle.dot", at={"cx": 14, "cy": 7, "r": 2})]
        )
        items.append(item(ring, "the choice"))
    if len(trained) > 1:
        items.append(item(el("path.front", at={"d": "M1 12H12V5H27"}), "best at its cost"))
    ways = {point.candidate.latency.how for point in trained if point.candidate.latency and point.high > point.low}
    if "measured" in ways:
        items.append(item(line(2, 7, 26, 7, kind="whisker"), "interval, measured"))
    if "predicted" in ways:
        items.append(item(line(2, 7, 26, 7, kind="whisker.guess"), "interval, predicted"))
    return el("ul.legend", *items)


def _caption(report: FitReport, points: Sequence[_Point], axis: Axis) -> str:
    trained = [point for point in points if point.top1 is not None]
    words = [f"{plural(len(report.candidates), 'candidate')}, {len(trained)} of them trained and drawn."]
    if len({len(point.candidate.rounds) for point in trained}) > 1:
        words.append(
            "Each stands at its accuracy after the last round it was trained in; a larger mark had more rounds."
        )
    if len(trained) < len(points):
        words.append("Those never trained are the hollow marks along the bottom.")
    if (hidden := len(report.candidates) - len(points)) > 0:
        words.append(f"{plural(hidden, 'candidate')} without a latency cannot be drawn; the table says why.")
    if _limit(report.budget, axis) is not None:
        end = " by the upper end of its interval" if axis == "latency_ms" else ""
        words.append(
            f"Nothing right of the budget line may be chosen; a candidate is judged{end}."
            if end
            else "Nothing right of the budget line may be chosen."
        )
    words.append("The choice was trained on after this: its final accuracy is at the top of the page.")
    return " ".join(words)
