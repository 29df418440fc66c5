"""What is taken for what: the confusion matrix, the pairs behind it, and the accuracy of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...metrics import wilson_interval
from ..records import Accuracy
from .markup import Html, el, join, user
from .scales import text_width
from .svg import SLIM, WIDE, figure, picture, text
from .wording import count, data_split, percent, plural, short

__all__ = ["class_bars", "confused_pairs", "confusion_section"]

NUMBERED = 30  # classes up to which cells have room for numbers and names
SLIM_NUMBERED = 12  # the same on a telephone
DRAWN = 400  # classes up to which a matrix is drawn at all
PAIRS = 20  # of the most confused, where there are no numbers
WORST = 15  # classes shown at once
LEVELS = 6  # shades where cells are drawn without numbers


@dataclass(frozen=True)
class _Pair:
    """`n` images of class `truth` were taken for `said`, out of `of`."""

    truth: int
    said: int
    n: int
    of: int


def confused_pairs(accuracy: Accuracy, *, most: int) -> list[tuple[int, int, int]]:
    """(truth, said, images) of the commonest confusions, commonest first."""
    return [(pair.truth, pair.said, pair.n) for pair in _pairs(accuracy)[:most]]


def confusion_section(accuracy: Accuracy, labels: Sequence[str]) -> Html:
    """The matrix as a picture; with many classes, the most confused pairs as a table as well."""
    classes = len(accuracy.confusion)
    images = plural(accuracy.n, f"{data_split(accuracy.split)} image")
    words = f"Rows are the truth, columns what the model said, on {images}."
    if classes <= NUMBERED:
        wide = el("div.scroll", _numbered(accuracy, labels, width=WIDE), at=_scrolling("confusion matrix"))
        drawn = (
            join([el("div.wide", wide), el("div.slim", _numbered(accuracy, labels, width=SLIM))])
            if classes <= SLIM_NUMBERED
            else wide
        )
        shades = " Blue is right, orange is wrong; the shades of wrong are relative to the largest confusion."
        return figure(drawn, join([words + shades, _commonest(accuracy, labels)]))
    parts = [_pair_table(accuracy, labels)]
    if classes <= DRAWN:
        shades = (
            f" {classes} classes, in the order of the labels, without numbers. Blue is right, orange is wrong; both"
            " are darker the larger their share of the row."
        )
        parts.append(figure(_shaded(accuracy), words + shades))
    else:
        parts.append(el("p.soft", f"The matrix of {classes} classes is too large to draw; report.json holds it."))
    return join(parts)


def class_bars(accuracy: Accuracy, labels: Sequence[str]) -> Html:
    """A bar per class with its interval, worst first; past the worst the rest is folded away."""
    totals = [sum(row) for row in accuracy.confusion]
    known = [(share, index) for index, share in enumerate(accuracy.per_class) if share is not None]
    empty = [labels[index] for index, share in enumerate(accuracy.per_class) if share is None]
    rows = [_class_row(labels[index], share, totals[index]) for share, index in sorted(known)]
    images = f"the {data_split(accuracy.split)} images"
    words = f"Accuracy on {images} of each class, worst first; the line is the 95 % interval."
    shown = len(rows) if len(rows) <= WORST + 5 else WORST
    parts = [_class_table(rows[:shown], words)]
    if rows[shown:]:
        summary = el("summary", f"The other {len(rows) - shown} classes")
        parts.append(el("details", summary, _class_table(rows[shown:], "The other classes, worst first.")))
    if empty:
        names = [part for name in empty[:20] for part in (user(short(name, length=40)), Html(", "))][:-1]
        more = f" and {len(empty) - 20} more" if len(empty) > 20 else ""
        parts.append(el("p.soft", f"Without a single image in {images}: ", *names, more + "."))
    return join(parts)


def _pairs(accuracy: Accuracy) -> list[_Pair]:
    pairs = [
        _Pair(truth, said, n, sum(row))
        for truth, row in enumerate(accuracy.confusion)
        for said, n in enumerate(row)
        if n and said != truth
    ]
    return sorted(pairs, key=lambda pair: (-pair.n, -pair.n / pair.of, pair.truth, pair.said))


def _commonest(accuracy: Accuracy, labels: Sequence[str]) -> Html | None:
    pairs = _pairs(accuracy)[:3]
    if not pairs:
        return Html(" No image was taken for another class.")
    told: list[str | Html] = []
    for pair in pairs:
        truth, said = (user(short(labels[index], length=40)) for index in (pair.truth, pair.said))
        told += [truth, " taken for ", said, f" ({count(pair.n)} of {count(pair.of)})", "; "]
    return join([" Most often: ", *told[:-1], "."])


def _numbered(accuracy: Accuracy, labels: Sequence[str], *, width: float) -> Html:
    """Every cell with its number."""
    matrix, classes = accuracy.confusion, len(accuracy.confusion)
    size, most = (12.0, 18) if width > 500 else (10.5, 11)
    names = [short(label, length=most) for label in labels]
    gutter = max(text_width(name, size=size) for name in names) + 14
    cell = max(min(52.0, (width - gutter - 26) / classes), 21.0)
    digits = max(len(str(n)) for row in matrix for n in row)
    font = min(12.0, cell * 0.92 / (0.58 * digits))
    tilted = text_width(max(names, key=len), size=size) > cell - 6
    head = 26 + (0.72 * gutter if tilted else 18)
    left = gutter + 16
    peak = max((n for r, row in enumerate(matrix) for c, n in enumerate(row) if r != c), default=0)
    parts = [
        text("said", left, 12, kind="name"),
        text("truth", 10, head + classes * cell / 2, kind="name", anchor="middle", turn=-90),
    ]
    for row, counts in enumerate(matrix):
        top, total = head + row * cell, sum(counts)
        parts.append(_name(names[row], labels[row], left - 8, top + cell / 2 + 4, anchor="end"))
        middle = left + (row + 0.5) * cell
        if tilted:
            parts.append(_name(names[row], labels[row], middle + 3, head - 7, anchor="start", turn=-42))
        else:
            parts.append(_name(names[row], labels[row], middle, head - 8, anchor="middle"))
        for column, n in enumerate(counts):
            x = left + column * cell
            share = n / (total if row == column else peak) if n else 0.0
            told = f"{labels[row]} taken for {labels[column]}: {n} of {total}"
            at = {"x": x, "y": top, "width": cell - 1, "height": cell - 1}
            if n:
                kind = "right" if row == column else "wrong"
                at["fill-opacity"] = round(0.08 + 0.82 * share, 2)
                parts.append(el(f"rect.{kind}", el("title", told), at=at))
            else:
                parts.append(el("rect.blank", at=at))
            strong = ".strong" if share > (0.55 if row == column else 0.8) else ""
            shown = text(
                str(n), x + (cell - 1) / 2, top + cell / 2 + font * 0.35, kind="zero" if not n else "n" + strong
            )
            parts.append(el("g", shown, at={"font-size": font, "text-anchor": "middle"}))
    tail = 0.72 * gutter if tilted else 0.0
    label = f"Confusion matrix of {classes} classes, rows are the truth"
    # A matrix of few classes is not blown up to the width of the page.
    drawn = max(left + classes * cell + max(0.0, tail - cell), 120.0)
    kind = "chart.matrix" if drawn > 0.75 * width else "chart.matrix.natural"
    return _sized(parts, drawn, head + classes * cell + 4, label=label, kind=kind)


def _name(shown: str, whole: str, x: float, y: float, *, anchor: str, turn: float | None = None) -> Html:
    """A class's name; the whole of a shortened one is in its tooltip."""
    name = text(shown, x, y, kind="class", anchor=anchor, turn=turn)
    return name if shown == whole else el("g", el("title", whole), name)


def _sized(parts: Sequence[Html], width: float, height: float, *, label: str, kind: str) -> Html:
    at = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria-label": label}
    return el(f"svg.{kind}", *parts, at={**at, "width": f"{width:.0f}", "height": f"{height:.0f}"})


def _shaded(accuracy: Accuracy) -> Html:
    """Every cell as a shade; one path per shade keeps a large matrix small."""
    classes = len(accuracy.confusion)
    cells: dict[tuple[str, int], list[str]] = {}
    for row, counts in enumerate(accuracy.confusion):
        total = sum(counts)
        for column, n in enumerate(counts):
            if n:
                share = n / total if row == column else math.sqrt(n / total)
                level = max(1, math.ceil(LEVELS * share))
                kind = "right" if row == column else "wrong"
                cells.setdefault((kind, level), []).append(f"M{column} {row}h1v1h-1z")
    paths = [
        el(f"path.{kind}", at={"d": "".join(path), "fill-opacity": round(level / LEVELS, 2)})
        for (kind, level), path in sorted(cells.items())
    ]
    frame = el("rect.frame", at={"x": 0, "y": 0, "width": classes, "height": classes})
    label = f"Confusion matrix of {classes} classes, rows are the truth; the table tells the most confused pairs"
    return picture(frame, *paths, width=classes, height=classes, label=label, kind="chart.shaded")


def _pair_table(accuracy: Accuracy, labels: Sequence[str]) -> Html:
    pairs = _pairs(accuracy)[:PAIRS]
    if not pairs:
        return el("p", "No image was taken for another class.")
    head = el("tr", *(el("th", name, at={"scope": "col"}) for name in ("truth", "said")), *_numbers_head())
    rows = [
        el(
            "tr",
            el("td.long", user(short(labels[pair.truth], length=60)), at={"title": labels[pair.truth]}),
            el("td.long", user(short(labels[pair.said], length=60)), at={"title": labels[pair.said]}),
            el("td.num", count(pair.n)),
            el("td.num", count(pair.of)),
            el("td.num", percent(pair.n / pair.of)),
        )
        for pair in pairs
    ]
    caption = el("caption", f"The {plural(len(pairs), 'most confused pair')}.")
    table = el("table", caption, el("thead", head), el("tbody", *rows))
    return el("div.scroll", table, at=_scrolling("most confused pairs"))


def _numbers_head() -> list[Html]:
    return [el("th.num", name, at={"scope": "col"}) for name in ("images", "of", "share")]


def _class_table(rows: Sequence[Html], words: str) -> Html:
    heads = [("class", "th"), ("accuracy", "th.num"), ("", "th.bar"), ("images", "th.num")]
    head = el("tr", *(el(kind, name or el("span.unseen", "bar"), at={"scope": "col"}) for name, kind in heads))
    table = el("table.classes", el("caption", words), el("thead", head), el("tbody", *rows))
    return el("div.scroll", table, at=_scrolling("accuracy per class"))


def _class_row(label: str, share: float, total: int) -> Html:
    low, high = wilson_interval(round(share * total), total) if total else (share, share)
    told = f"{percent(share)}, 95 % interval {percent(low)} to {percent(high)}"
    bar = el(
        "svg.hbar",
        el("title", told),
        el("rect.track", at={"x": 0, "y": 3, "width": 100, "height": 8}),
        el("rect.right", at={"x": 0, "y": 3, "width": 100 * share, "height": 8}),
        el("path.whisker", at={"d": f"M{100 * low:.1f} 7H{100 * high:.1f}"}),
        at={"viewBox": "0 0 100 14", "preserveAspectRatio": "none", "role": "img", "aria-label": told},
    )
    name = el("th.long", user(short(label, length=60)), at={"scope": "row", "title": label})
    return el("tr", name, el("td.num", percent(share)), el("td.bar", bar), el("td.num", count(total)))


def _scrolling(label: str) -> dict[str, str | float | None]:
    """What a box that scrolls sideways needs to be reached by keyboard."""
    return {"tabindex": "0", "role": "region", "aria-label": label}
