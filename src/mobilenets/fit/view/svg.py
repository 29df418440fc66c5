"""Small pieces of SVG that several pictures share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from .markup import Html, el, join
from .scales import Scale

__all__ = ["FAMILY_MARKS", "both_widths", "figure", "grid_x", "grid_y", "line", "mark", "number", "picture", "text"]

FAMILY_MARKS = 8  # shapes below, and colours `f0` to `f7` in page.css; families beyond that begin anew

WIDE, SLIM = 860.0, 390.0  # pixels at which pictures are drawn, for desks and for telephones


def picture(
    *children: Html | None, width: float, height: float, label: str, group: bool = False, kind: str = "chart"
) -> Html:
    """An SVG that fills its column. `group` says that its parts, such as links, are for everyone's ears too."""
    at = {"viewBox": f"0 0 {width:g} {height:g}", "role": "group" if group else "img", "aria-label": label}
    return el(f"svg.{kind}", *children, at=at)


def both_widths(draw: Callable[[float], Html]) -> Html:
    """The picture twice, drawn for desks and for telephones; page.css shows one of them.

    Scaling one drawing down would leave its letters too small to read.
    """
    return join([el("div.wide", draw(WIDE)), el("div.slim", draw(SLIM))])


def figure(body: Html, caption: Html | str) -> Html:
    """A picture or table with its caption."""
    return el("figure", body, el("figcaption", caption))


def text(
    content: str, x: float, y: float, *, kind: str = "tick", anchor: str = "start", turn: float | None = None
) -> Html:
    """A line of text; `anchor` is start, middle or end, `turn` in degrees."""
    at: dict[str, str | float | None] = {
        "x": x,
        "y": y,
        "text-anchor": None if anchor == "start" else anchor,
        "transform": None if turn is None else f"rotate({turn:g} {x:.1f} {y:.1f})",
    }
    return el(f"text.{kind}", content, at=at)


def line(x1: float, y1: float, x2: float, y2: float, *, kind: str) -> Html:
    """A straight line."""
    return el(f"line.{kind}", at={"x1": x1, "y1": y1, "x2": x2, "y2": y2})


def mark(family: int, x: float, y: float, *, size: float, kind: str = "") -> Html:
    """The marker of a family: shape and colour both tell which. `size` is the radius in pixels."""
    classes = f".mark.f{family % FAMILY_MARKS}" + (f".{kind}" if kind else "")
    corners: Mapping[int, tuple[int, float, float]] = {
        1: (4, 45, 1.2),  # square
        2: (3, -90, 1.3),  # triangle
        3: (4, 0, 1.3),  # diamond
        4: (3, 90, 1.3),  # triangle on its tip
        5: (5, -90, 1.2),  # pentagon
        6: (6, 0, 1.15),  # hexagon
    }
    shape = family % FAMILY_MARKS
    if shape == 0:
        return el("circle" + classes, at={"cx": x, "cy": y, "r": size})
    if shape == 7:  # cross
        arm, thick = 1.2 * size, 0.45 * size
        path = (
            f"M{x - thick:.1f} {y - arm:.1f}h{2 * thick:.1f}v{arm - thick:.1f}h{arm - thick:.1f}v{2 * thick:.1f}"
            f"h{thick - arm:.1f}v{arm - thick:.1f}h{-2 * thick:.1f}v{thick - arm:.1f}h{thick - arm:.1f}"
            f"v{-2 * thick:.1f}h{arm - thick:.1f}z"
        )
        return el("path" + classes, at={"d": path})
    n, turn, stretch = corners[shape]
    angles = [math.radians(turn + 360 * corner / n) for corner in range(n)]
    points = [f"{x + stretch * size * math.cos(a):.1f},{y + stretch * size * math.sin(a):.1f}" for a in angles]
    return el("polygon" + classes, at={"points": " ".join(points)})


def grid_y(scale: Scale, *, left: float, right: float, about: int, unit: str = "") -> list[Html]:
    """Level lines with their values on the left."""
    parts = []
    for value in scale.ticks(about=about):
        y = scale(value)
        parts += [
            line(left, y, right, y, kind="grid"),
            text(number(value) + unit, left - 8, y + 4, anchor="end"),
        ]
    return parts


def grid_x(scale: Scale, *, bottom: float, about: int, name: str) -> list[Html]:
    """The horizontal axis below a picture: ticks, their values, the axis's name."""
    parts = [line(scale.start, bottom, scale.end, bottom, kind="axis")]
    for value in scale.ticks(about=about):
        x = scale(value)
        parts += [line(x, bottom, x, bottom + 5, kind="axis"), text(number(value), x, bottom + 18, anchor="middle")]
    parts.append(text(name, (scale.start + scale.end) / 2, bottom + 38, kind="name", anchor="middle"))
    return parts


def number(value: float) -> str:
    """A tick's value without needless zeros."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
