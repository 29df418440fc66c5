"""The tables: candidates with their fates, artifacts, gates, and what everything was done with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ...records import Gate
from ..records import Candidate, Delivered, FitReport
from .markup import Html, el, join, user
from .scatter import anchor_of, families_of
from .svg import mark
from .wording import (
    chosen_candidate,
    count,
    data_split,
    duration,
    limits_of,
    measured_on,
    megabytes,
    millions,
    ms,
    percent,
    plural,
    short,
)

__all__ = ["artifact_table", "candidate_tables", "colophon", "commands", "gate_table"]

GATES = {
    "logits_max_difference": "largest difference of a logit, in its standard deviations over the images",
    "top1_agreement": "same answer as the trained network",
    "accuracy_drop": "accuracy lost against the trained network",
    "speedup_over_fp32": "times as fast as fp32",
}
SHARES = frozenset({"top1_agreement", "accuracy_drop"})  # values in [0, 1], shown as per cent
COLUMNS = (
    ("candidate", ""),
    ("what became of it", ""),
    ("top-1, %", ".num"),
    ("latency, ms", ".num"),
    ("mult-adds, M", ".num"),
    ("parameters, M", ".num"),
    ("size, MB", ".num"),
)


def candidate_tables(report: FitReport) -> Html:
    """Those that were trained, best first; the others folded away below."""
    families = families_of(report.candidates)
    numbered = list(enumerate(report.candidates))
    trained = [it for it in numbered if it[1].rounds or it[1].status == "chosen"]
    trained.sort(key=lambda it: (it[1].status != "chosen", -len(it[1].rounds), -_top1(it[1])))
    others = [it for it in numbered if not (it[1].rounds or it[1].status == "chosen")]
    parts = []
    if trained:
        words = "Candidates that were trained; top-1 is on validation images after the last round of each."
        parts.append(_candidates(trained, families, words))
    if others:
        words = "Candidates that were not trained."
        summary = el("summary", f"{plural(len(others), 'candidate')} that {_was(others)} never trained, and why")
        parts.append(el("details", summary, _candidates(others, families, words)))
    return join(parts)


def artifact_table(report: FitReport) -> Html:
    """What was delivered, the recommended one first."""
    heads = [("artifact", ""), ("precision", ""), ("size, MB", ".num"), ("latency, ms", ".num"), ("top-1, %", ".num")]
    rows = [
        el(
            "tr",
            el("th.long", el("code", user(one.path)), at={"scope": "row"}),
            el("td", one.precision),
            el("td.num", megabytes(one.size_mb, unit=False)),
            _interval(
                ms(one.latency.median_ms, unit=False),
                ms(one.latency.low_ms, unit=False),
                ms(one.latency.high_ms, unit=False),
            ),
            _interval(
                percent(one.accuracy.top1, unit=False),
                percent(one.accuracy.top1_low, unit=False),
                percent(one.accuracy.top1_high, unit=False),
            ),
        )
        for one in report.delivered
    ]
    caption = "Delivered artifacts, the recommended one first; below each value its 95 % interval."
    return _table("delivered artifacts", caption, heads, rows)


def gate_table(delivered: Sequence[Delivered]) -> Html:
    """Every check of every artifact with its value and limit."""
    heads = [("check", ""), ("value", ".num"), ("limit", ".num"), ("measured on", ".num"), ("passed", "")]
    rows = []
    for one in delivered:
        rows.append(el("tr.part", el("th", el("code", user(one.path)), at={"scope": "rowgroup", "colspan": "5"})))
        rows += [_gate(gate) for gate in one.gates]
    return _table("gates", "What each artifact had to pass before it was delivered.", heads, rows, kind="gates")


def colophon(report: FitReport) -> Html:
    """Data, recipe, machine and time: what the numbers hang on."""
    environment = report.environment
    data: list[tuple[str, str | Html]] = [("name", user(report.data)), ("classes", count(len(report.labels)))]
    data += [(f"{data_split(split)} images", count(n)) for split, n in report.images.items()]
    data.append(("digest", el("code", report.data_digest)))
    chosen = chosen_candidate(report)
    start = user(chosen.start) if chosen is not None and chosen.start is not None else "none, begun from nothing"
    recipe: list[tuple[str, str | Html]] = [
        ("weights", start),
        *((key.replace("_", " "), _setting(value)) for key, value in report.recipe.items() if value is not None),
    ]
    machine: list[tuple[str, str | Html]] = [
        *([("latencies of", user(report.device.cpu))] if report.device is not None else []),
        ("processor", environment.cpu),
        ("cores", str(environment.cores)),
        ("memory", f"{environment.memory_gb:g} GB"),
        ("system", environment.os),
        ("Python", environment.python),
        *sorted(environment.versions.items()),
        ("date", environment.date.replace("T", " ").replace("+00:00", " UTC")),
    ]
    time: list[tuple[str, str | Html]] = [
        ("budget", limits_of(report.budget)),
        ("asked for", duration(report.asked_seconds)),
        ("took", duration(report.took_seconds)),
        ("final training", duration(report.training_seconds)),
    ]
    blocks = (("Data", data), ("Budget and time", time), ("Machine", machine), ("Recipe", recipe))
    return el("div.colophon", *(el("section", el("h3", name), _pairs(pairs)) for name, pairs in blocks))


def commands(path: str) -> Html:
    """How the artifact is used, ready to be copied."""
    quoted = shlex.quote(path)
    lines = [f"mobilenets predict {quoted} IMAGE", f"mobilenets bench {quoted}"]
    return el("div.commands", *(el("pre", el("code", line), at={"tabindex": "0"}) for line in lines))


def _was(others: Sequence[object]) -> str:
    return "was" if len(others) == 1 else "were"


def _top1(candidate: Candidate) -> float:
    return candidate.rounds[-1].top1 if candidate.rounds else 0.0


def _candidates(numbered: Sequence[tuple[int, Candidate]], families: Sequence[str], words: str) -> Html:
    rows = [_candidate(index, candidate, families) for index, candidate in numbered]
    return _table("candidates", words, COLUMNS, rows, kind="sortable.candidates")


def _candidate(index: int, candidate: Candidate, families: Sequence[str]) -> Html:
    hollow = "" if candidate.rounds else "hollow"
    family = mark(families.index(candidate.family), 7, 7, size=4.6, kind=hollow)
    key = el("svg.glyph", family, at={"viewBox": "0 0 14 14", "role": "img", "aria-label": candidate.family})
    parts = candidate.name.split("_")  # a narrow column may break the name, but only after an underscore
    broken = [part for piece in parts[:-1] for part in (f"{piece}_", el("wbr"))]
    name = el("span.nowrap", key, *broken, parts[-1])
    precision = el("span.soft", f" {candidate.precision}") if candidate.precision != "fp32" else None
    start = el("small", "from ", user(short(candidate.start, length=40))) if candidate.start is not None else None
    latency, top1 = candidate.latency, _top1(candidate)
    rounds = plural(len(candidate.rounds), "round")
    return el(
        "tr.choice" if candidate.status == "chosen" else "tr",
        el("th", name, precision, start, at={"scope": "row", "data-sort": candidate.name}),
        el("td.fate", el("strong", candidate.status), el("span", candidate.why), at={"data-sort": candidate.status}),
        el("td.num", percent(top1, unit=False), el("small", rounds), at={"data-sort": f"{top1:.6f}"})
        if candidate.rounds
        else el("td.num.soft", "not trained"),
        el(
            "td.num",
            ms(latency.median_ms, unit=False),
            el("small", f"{ms(latency.low_ms, unit=False)} to {ms(latency.high_ms, unit=False)}"),
            el("small", "predicted") if latency.how == "predicted" else None,
            at={"data-sort": f"{latency.median_ms:.6f}"},
        )
        if latency is not None
        else el("td.num.soft", "unknown"),
        el("td.num", millions(candidate.mult_adds, unit=False), at={"data-sort": str(candidate.mult_adds)}),
        el("td.num", millions(candidate.parameters, unit=False), at={"data-sort": str(candidate.parameters)}),
        el("td.num", megabytes(candidate.size_mb, unit=False), at={"data-sort": f"{candidate.size_mb:.6f}"}),
        at={"id": anchor_of(index)},
    )


def _interval(value: str, low: str, high: str) -> Html:
    return el("td.num", value, el("small", f"{low} to {high}"))


def _gate(gate: Gate) -> Html:
    words = {"at_most": "at most", "at_least": "at least"}[gate.passes]
    name = GATES.get(gate.name, gate.name.replace("_", " "))
    verdict = el("td.yes", "\u2713 passed") if gate.passed else el("td.no", "\u2717 failed")
    return el(
        "tr",
        el("td", name, at={"title": gate.name}),
        el("td.num", _gate_value(gate, gate.value)),
        el("td.num", f"{words} {_gate_value(gate, gate.limit)}"),
        el("td.num", measured_on(gate)),
        verdict,
    )


def _gate_value(gate: Gate, value: float) -> str:
    if gate.name in SHARES:
        return f"{100 * value + 0.0:.2f}\u00a0%".replace("-0.00", "0.00")
    return f"{value:.3g}"


def _table(label: str, caption: str, heads: Sequence[tuple[str, str]], rows: Sequence[Html], *, kind: str = "") -> Html:
    head = el("tr", *(el(f"th{align}", name, at={"scope": "col"}) for name, align in heads))
    table = el("table" + (f".{kind}" if kind else ""), el("caption", caption), el("thead", head), el("tbody", *rows))
    return el("div.scroll", table, at={"tabindex": "0", "role": "region", "aria-label": label})


def _setting(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _pairs(pairs: Sequence[tuple[str, str | Html]]) -> Html:
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in pairs))
