"""A diagnosis as a page: causes and remedies first, then the numbers they come from."""

from __future__ import annotations

from collections.abc import Sequence

from ..fit.view.document import document, section
from ..fit.view.markup import Html, el, join, user
from ..fit.view.matrix import class_bars, confusion_section
from ..fit.view.wording import count, data_split, percent, plural
from .records import Diagnosis, Finding, Measured

__all__ = ["page"]


def page(diagnosis: Diagnosis) -> str:
    """One HTML document that needs nothing else.

    Args:
        diagnosis: what `diagnose` has found.
    """
    m = diagnosis.measured
    told = plural(len(diagnosis.findings), "cause") if diagnosis.findings else "nothing stands out"
    return document(
        f"{m.model}: {told}",
        _top(diagnosis),
        section("Likely causes, and what to do", "causes", _findings(diagnosis.findings)),
        section("What is taken for what", "confusion", confusion_section(m.accuracy, m.labels)),
        section("Class by class", "classes", class_bars(m.accuracy, m.labels)),
        section("Row by row", "rows", _rows(m)),
        section("Where the time of a training step goes", "time", _time(m)),
        section("How the images are fed", "inputs", _inputs(m)),
        section("How this came about", "colophon", _origins(m)),
    )


def _top(diagnosis: Diagnosis) -> Html:
    m = diagnosis.measured
    images = plural(m.accuracy.n, f"{data_split(m.accuracy.split)} image")
    lead = (
        f"{percent(m.accuracy.top1)} of {images} are right "
        f"(95 % interval {percent(m.accuracy.top1_low)} to {percent(m.accuracy.top1_high)}), "
        f"and {percent(m.train_top1)} of {plural(m.train_n, 'training image')}."
    )
    return el("header", el("p.kicker", "Diagnosis of ", user(m.data)), el("h1", m.model), el("p.lead", lead))


def _findings(findings: Sequence[Finding]) -> Html:
    if not findings:
        return el("p", "Nothing stands out.")
    rows = [
        el(
            "tr",
            el("th", finding.cause, at={"scope": "row"}),
            el("td", finding.sure),
            el("td", user(finding.evidence)),
            el("td", finding.remedy),
        )
        for finding in findings
    ]
    return _table("causes and remedies", [("cause", ""), ("", ""), ("because", ""), ("do", "")], rows)


def _rows(m: Measured) -> Html:
    heads = [("row", ""), ("kind", ""), *((name, ".num") for name in ("channels", "dead", "low", "high", "deviation"))]
    heads += [("gradient", ".num"), ("weights", ".num")]
    rows = []
    for row in m.rows:
        dead = f"{row.dead} of {row.channels}" if row.channels else "none"
        numbers = [count(row.out), dead, f"{row.low:.2f}", f"{row.high:.2f}", f"{row.deviation:.2f}"]
        numbers += [f"{row.gradient:.2g}", f"{row.weights:.2f}"]
        cells = [el("td.num", number) for number in numbers]
        rows.append(el("tr", el("th", row.name, at={"scope": "row"}), el("td", row.kind), *cells))
    words = (
        "Outputs on real images; a dead channel says the same everywhere on every image, in any layer of the row. "
        "Gradients are norms of one training batch, beside the norms of the weights they belong to."
    )
    return join([_table("rows", heads, rows), el("p.soft", words)])


def _time(m: Measured) -> Html:
    t = m.times
    parts = [("waiting for images", t.data_ms), ("forward", t.forward_ms), ("backward", t.backward_ms)]
    parts.append(("optimizer", t.optimizer_ms))
    rows = []
    for name, ms in parts:
        share = ms / t.total_ms
        bar = el(
            "svg.hbar",
            el("rect.track", at={"x": 0, "y": 3, "width": 100, "height": 8}),
            el("rect.right", at={"x": 0, "y": 3, "width": 100 * share, "height": 8}),
            at={"viewBox": "0 0 100 14", "preserveAspectRatio": "none", "role": "img", "aria-label": percent(share)},
        )
        cells = [el("td.num", percent(share)), el("td.bar", bar), el("td.num", f"{ms:.1f} ms")]
        rows.append(el("tr", el("th", name, at={"scope": "row"}), *cells))
    words = f"A step of {plural(t.batch_size, 'image')} takes {t.total_ms:.1f} ms, median of {t.steps}."
    heads = [("part", ""), ("share", ".num"), ("", ".bar"), ("time", ".num")]
    return join([_table("time of a step", heads, rows), el("p.soft", words)])


def _inputs(m: Measured) -> Html:
    ways = [("as the bundle says", m.inputs.top1), *sorted(m.inputs.otherwise.items(), key=lambda way: -way[1])]
    rows = [el("tr", el("th", name, at={"scope": "row"}), el("td.num", percent(top1))) for name, top1 in ways]
    words = (
        f"On {plural(m.inputs.n, 'image')}. Normalised pixels have mean {m.inputs.mean:.2f} and deviation "
        f"{m.inputs.deviation:.2f}."
    )
    if m.batch_norm_top1 is not None:
        words += f" With norms that use the images' own statistics {percent(m.batch_norm_top1)} are right."
    return join([_table("ways to feed the images", [("fed", ""), ("top-1", ".num")], rows), el("p.soft", words)])


def _origins(m: Measured) -> Html:
    facts = [("bundle", m.digest), ("processor", m.environment.cpu), ("system", m.environment.os)]
    packages = ", ".join(f"{name} {version}" for name, version in m.environment.versions.items())
    pairs = [el("div", el("dt", name), el("dd", value)) for name, value in [*facts, ("packages", packages)]]
    return el("dl", *pairs)


def _table(label: str, heads: Sequence[tuple[str, str]], rows: Sequence[Html]) -> Html:
    head = el("tr", *(el(f"th{kind}", name or el("span.unseen", label), at={"scope": "col"}) for name, kind in heads))
    table = el("table", el("caption.unseen", label), el("thead", head), el("tbody", *rows))
    return el("div.scroll", table, at={"tabindex": "0", "role": "region", "aria-label": label})
