"""The page of a fit: everything the report holds, in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from .records import FitReport, Mistake
from .view.curves import training_picture
from .view.document import document, section
from .view.hero import hero
from .view.markup import Html, el, join, user
from .view.matrix import class_bars, confusion_section
from .view.scatter import cost_picture
from .view.tables import artifact_table, candidate_tables, colophon, gate_table
from .view.wording import data_split, headline, percent, plural, short

__all__ = ["page"]

SMALL_SIDE = 64  # pixels; thumbnails up to this are enlarged with their pixels kept sharp
KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


def page(report: FitReport, *, thumbnails: Mapping[str, bytes]) -> str:
    """The report as one HTML document; see `document`.

    Args:
        report: what a fit found out.
        thumbnails: PNG or JPEG files by the `image` of a mistake; one that is missing, or is neither, leaves its
            caption alone.
    """
    sections = [
        section("What was weighed", "weighed", cost_picture(report)),
        section("Every candidate, and what became of it", "candidates", candidate_tables(report)),
        section("The final training", "training", training_picture(report)),
    ]
    if report.delivered:
        accuracy = report.delivered[0].accuracy
        sections += [
            section("What is taken for what", "confusion", confusion_section(accuracy, report.labels)),
            section("Class by class", "classes", class_bars(accuracy, report.labels)),
            section("The surest mistakes", "mistakes", _mistakes(report, thumbnails)),
        ]
    sections += [
        section("What was delivered, and the checks it passed", "gates", _delivered(report)),
        section("How this came about", "colophon", _origins(report)),
    ]
    verdict, _ = headline(report)
    return document(f"{report.chosen} {verdict}", hero(report), *sections)


def _mistakes(report: FitReport, thumbnails: Mapping[str, bytes]) -> Html:
    accuracy = report.delivered[0].accuracy
    images = plural(accuracy.n, f"{data_split(accuracy.split)} image")
    if not report.mistakes:
        none = f"None: the model got each of the {images} right."
        return el("p", none if accuracy.top1 == 1 else "The report holds no single mistakes.")
    words = f"Of the {images}, those where the model was wrong and surest of itself. Some may be labelled wrongly."
    cards = [_mistake(mistake, thumbnails.get(mistake.image)) for mistake in report.mistakes]
    return join([el("p", words), el("ul.mistakes", *cards)])


def _mistake(mistake: Mistake, content: bytes | None) -> Html:
    kind = next((kind for magic, kind in KINDS if content is not None and content.startswith(magic)), None)
    if content is None or kind is None:
        shown = el("div.missing", "no picture")
    else:
        shown = el(
            "img.sharp" if _is_small(content) else "img",
            at={
                "src": f"data:{kind};base64,{base64.b64encode(content).decode()}",
                "alt": f"{short(mistake.image, length=80)}: {mistake.truth}, taken for {mistake.said}",
                "title": mistake.image,
            },
        )
    caption = el(
        "figcaption",
        el("span", "truth ", el("strong", user(mistake.truth))),
        el("span", "said ", el("strong.wrong", user(mistake.said)), f", {percent(mistake.probability)}"),
        el("span.soft.file", user(mistake.image)),
    )
    return el("li", el("figure", shown, caption))


def _is_small(content: bytes) -> bool:
    """Whether it is a PNG of few pixels: width and height stand at a fixed place in its head."""
    sides = [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)]
    return content.startswith(KINDS[0][0]) and max(sides) <= SMALL_SIDE


def _delivered(report: FitReport) -> Html:
    parts = [artifact_table(report), gate_table(report.delivered)] if report.delivered else []
    if not report.delivered:
        parts.append(el("p", "Nothing was delivered."))
    if report.not_delivered:
        parts += [el("h3", "Tried, and kept back"), el("ul", *(el("li", reason) for reason in report.not_delivered))]
    return join(parts)


def _origins(report: FitReport) -> Html:
    parts = [
        el("pre", el("code", report.command), at={"tabindex": "0"}),
        colophon(report),
        el("h3", "How latencies were found"),
        el("p.prose", report.latency_note),
        el("h3", "Problems found in the images"),
    ]
    if report.problems:
        parts.append(el("ul", *(el("li", user(problem)) for problem in report.problems)))
    else:
        parts.append(el("p.prose", "None."))
    return join(parts)
