"""The top of the page: the verdict, and its numbers large."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Delivered, FitReport
from .markup import Html, el, join, user
from .tables import commands
from .wording import (
    chosen_candidate,
    count,
    data_split,
    duration,
    headline,
    learned_nothing,
    limits_broken,
    limits_of,
    megabytes,
    millions,
    ms,
    percent,
    plural,
)

__all__ = ["hero"]


def hero(report: FitReport) -> Html:
    """Headline, tiles, and how to use what came out."""
    verdict, numbers = headline(report)
    first = report.delivered[0] if report.delivered else None
    fits = first is not None and not limits_broken(report, first) and not learned_nothing(first.accuracy, report.labels)
    context = el(
        "p.kicker",
        "mobilenets fit ",
        user(report.data),
        f" for {limits_of(report.budget)}, in {duration(report.took_seconds)}",
    )
    name = el("span.name", report.chosen)
    title = el("h1", name, " ", el("span.fits" if fits else "span.misses", verdict))
    parts = [context, title, el("p.lead", numbers + ".")]
    if first is not None:
        parts += [el("div.tiles", *_tiles(report, first)), _use(first)]
    return el("header", *parts)


def _tiles(report: FitReport, first: Delivered) -> list[Html]:
    budget, candidate, latency, accuracy = report.budget, chosen_candidate(report), first.latency, first.accuracy
    interval = f"95 % interval {ms(latency.low_ms, unit=False)} to {ms(latency.high_ms)}"
    tiles = [
        _tile(
            "latency of one image" if latency.batch_size == 1 else f"latency of {latency.batch_size} images",
            ms(latency.median_ms, unit=False),
            "ms",
            [
                _of(ms(budget.latency_ms), latency.high_ms / budget.latency_ms, at_most=True)
                if budget.latency_ms
                else None,
                interval,
                f"{plural(latency.n, 'run')} in {plural(latency.rounds, 'round')}, {plural(latency.threads, 'thread')}",
                f"{latency.engine} {latency.engine_version}, {first.precision}",
                f"on {report.device.cpu}" if report.device is not None else None,
            ],
            meter=_meter(latency.low_ms, latency.median_ms, latency.high_ms, budget.latency_ms),
            wide=True,
        ),
        _tile(
            "accuracy, top-1",
            percent(accuracy.top1, unit=False),
            "%",
            [
                f"95 % interval {percent(accuracy.top1_low, unit=False)} to {percent(accuracy.top1_high)}",
                f"on {plural(accuracy.n, f'{data_split(accuracy.split)} image')}",
                f"top-5 {percent(accuracy.top5)}" if accuracy.top5 is not None else None,
                f"calibration error {percent(accuracy.calibration_error)}",
                "these images also chose the model: expect a little less on new ones"
                if accuracy.split == "val"
                else None,
            ],
            meter=_meter(accuracy.top1_low, accuracy.top1, accuracy.top1_high, None, full=1.0),
            wide=True,
        ),
        _tile(
            "size of the file",
            megabytes(first.size_mb, unit=False),
            "MB",
            [
                _of(megabytes(budget.size_mb), first.size_mb / budget.size_mb) if budget.size_mb else None,
                f"{first.precision}, all in one file",
            ],
            meter=_meter(first.size_mb, first.size_mb, first.size_mb, budget.size_mb),
        ),
    ]
    if candidate is not None:
        cost, limit = candidate.mult_adds, 1e6 * budget.mult_adds_m if budget.mult_adds_m else None
        tiles += [
            _tile(
                "mult-adds",
                millions(cost, unit=False),
                "M",
                [_of(millions(limit), cost / limit) if limit else "per image"],
                meter=_meter(cost, cost, cost, limit),
            ),
            _tile(
                "parameters",
                millions(candidate.parameters, unit=False),
                "M",
                [f"{count(candidate.parameters)} numbers; images of {candidate.resolution} pixels"],
            ),
        ]
    return tiles


def _of(limit: str, part: float, *, at_most: bool = False) -> Html:
    """How much of a limit is used; `at_most` where the upper end of an interval is meant."""
    return el("strong", f"{'at most ' if at_most else ''}{100 * part:.0f} % of {limit}")


def _tile(
    name: str,
    value: str,
    unit: str,
    lines: Sequence[str | Html | None],
    *,
    meter: Html | None = None,
    wide: bool = False,
) -> Html:
    number = el("p.big", value, el("span", f" {unit}"))
    told = [el("li", line) for line in lines if line is not None]
    return el("section.tile.large" if wide else "section.tile", el("h2", name), number, meter, el("ul", *told))


def _meter(low: float, value: float, high: float, limit: float | None, *, full: float | None = None) -> Html | None:
    """A bar up to the value, its interval as a line, the limit as a tick. Numbers beside it say the same."""
    end = full if limit is None else 1.08 * max(limit, high)
    if end is None or not end > 0:
        return None
    part = [100 * max(0.0, min(1.0, each / end)) for each in (low, value, high)]
    over = limit is not None and high > limit
    return el(
        "svg.meter",
        el("rect.track", at={"x": 0, "y": 3, "width": 100, "height": 6}),
        el("rect.over" if over else "rect.right", at={"x": 0, "y": 3, "width": part[1], "height": 6}),
        el("path.whisker", at={"d": f"M{part[0]:.1f} 6H{part[2]:.1f}"}) if high > low else None,
        el("path.budget", at={"d": f"M{100 * limit / end:.1f} 0V12"}) if limit is not None else None,
        at={"viewBox": "0 0 100 12", "preserveAspectRatio": "none", "aria-hidden": "true"},
    )


def _use(first: Delivered) -> Html:
    words = el("p.soft", "From the folder of this page, on this machine or on one like it without torch:")
    return el("section.use", el("h2", "How to use it"), words, join([commands(first.path)]))
