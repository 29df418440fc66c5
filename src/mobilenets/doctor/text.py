"""A checkup as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .graph import short
from .records import Checkup, Feeding

__all__ = ["checkup_text"]

SHOWN = 3  # names of operators


def checkup_text(checkup: Checkup) -> str:
    """The findings first, then the ways it was fed, then the facts."""
    return "\n".join(_lines(checkup))


def _lines(checkup: Checkup) -> Iterator[str]:
    count = len(checkup.findings)
    yield f"{checkup.file}: " + ("nothing found" if not count else f"{count} finding{'s' if count > 1 else ''}")
    for finding in checkup.findings:
        yield f"\n{finding.weight}: {finding.problem}"
        yield f"  because  {finding.evidence}"
        yield f"  so       {finding.costs}"
        yield f"  do       {finding.remedy}"
        if finding.nodes:
            more = len(finding.nodes) - SHOWN
            yield f"  in       {', '.join(short(name) for name in finding.nodes[:SHOWN])}" + (
                f" and {more} more" if more > 0 else ""
            )
    if checkup.feeding is not None:
        yield from _feeding(checkup.feeding)
    wide = max(len(fact.name) for fact in checkup.facts)
    yield ""
    for fact in checkup.facts:
        yield f"{fact.name:<{wide}}  {fact.value}"


def _feeding(feeding: Feeding) -> Iterator[str]:
    wide = max(len(way.name) for way in feeding.ways)
    yield f"\n{feeding.n} images of {feeding.data}, {feeding.classes} classes, outputs by {feeding.labels}"
    yield f"{'fed':<{wide}}   top-1  95 % interval        p"
    first, *others = feeding.ways
    for way in (first, *sorted(others, key=lambda each: -each.top1)):
        p = "" if way is first else f"{way.p:9.1g}"
        share = f"{100 * way.top1:5.1f} %  {100 * way.low:5.1f} to {100 * way.high:5.1f} %"
        yield f"{way.name:<{wide}}  {share}  {p}".rstrip()
    for name, why in feeding.untried.items():
        yield f"{name:<{wide}}  not tried: {why}"
