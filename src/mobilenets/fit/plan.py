"""From options to a plan: what keeps the budget, who is trained, for how long. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import BudgetError
from .candidates import Option, in_order_of_promise, within_reach
from .records import Budget, Candidate, LatencyEstimate, Status
from .state import Plan

__all__ = [
    "candidate_of",
    "final_seconds",
    "judging_seconds",
    "make_plan",
    "no_candidate",
    "static_status",
    "timed_status",
]

SEARCH_SHARE = 0.16  # of the training time goes into finding out whom to train
SEARCH_UNIT = 14.0  # seconds; the number of entrants grows with the root of the search time, and so does each's time
MOST_ENTRANTS = 8
TOGETHER_SHARE = 0.6  # of the training time goes into one elastic training; its winner has the rest for itself
RESERVE_SECONDS = 45.0  # for export, gates, benchmark and report
RESERVE_SHARE = 0.2  # of the whole time, at most
JUDGING = 1.6  # times the images judged with float32: int8 answers them as well, and they are decoded
LEAST_FINAL = 0.5  # of the planned final training happens, however late it is


def static_status(option: Option, budget: Budget) -> tuple[Status, str] | None:
    """Why an option is out by what its table says alone; None when it is not."""
    mult_adds_m = option.cost.mult_adds / 1e6
    if budget.mult_adds_m is not None and mult_adds_m > budget.mult_adds_m:
        return "too many mult-adds", f"{mult_adds_m:.1f} M of {budget.mult_adds_m:g} M mult-adds"
    if budget.size_mb is not None and option.size_mb > budget.size_mb:
        return "too large", f"{option.size_mb:.2f} MB of {budget.size_mb:g} MB"
    return None


def timed_status(latency: LatencyEstimate | None, budget: Budget) -> tuple[Status, str] | None:
    """Why an option is out by its latency, None if a device did not time it; the pessimistic end of it counts."""
    if latency is None:
        return "not measured", "the device's latencies do not hold it"
    if budget.latency_ms is None or latency.high_ms <= budget.latency_ms:
        return None
    middle = f"{latency.how} {latency.median_ms:.2f} ms"
    return "too slow", f"{middle}, up to {latency.high_ms:.2f} of {budget.latency_ms:g} ms"


def candidate_of(
    option: Option, *, latency: LatencyEstimate | None = None, status: tuple[Status, str] | None = None
) -> Candidate:
    """The record of an option."""
    what, why = status or ("fits, not tried", "keeps the budget; others promised more in the time there was")
    return Candidate(
        name=option.spec.name,
        family=option.family,
        alpha=option.alpha,
        resolution=option.spec.resolution,
        precision=option.precision,
        parameters=option.cost.parameters,
        mult_adds=option.cost.mult_adds,
        size_mb=option.size_mb,
        latency=latency,
        status=what,
        why=why,
        start=option.start,
    )


def make_plan(
    fitting: Sequence[Option],
    places: Mapping[Option, int],
    speeds: Mapping[Option, float],
    *,
    train_images: int,
    seconds: float,
    asked: float,
    elastic: bool = False,
) -> Plan:
    """Successive halving (Jamieson and Talwalkar 2016): many for a short time, the better ones for longer.

    Args:
        fitting: options that keep the budget, measured or predicted.
        places: index of each among the candidates.
        speeds: training images per second of each.
        train_images: in an epoch.
        seconds: that are left.
        asked: that the whole fit may take.
        elastic: instead, train the edge of the budget in the most promising family at once, where it has two widths.
    """
    left = max(1.0, seconds - _reserve(asked))
    search = SEARCH_SHARE * left
    most = min(MOST_ENTRANTS, max(1, round(math.sqrt(search / SEARCH_UNIT))))
    final = (1 - SEARCH_SHARE) * left
    promises = {o: within_reach(o, epochs=final * speeds[o] / train_images) for o in fitting}
    if elastic and (plan := _elastic_plan(fitting, places, promises, left=left)) is not None:
        return plan
    entrants = in_order_of_promise(promises, most=most)
    count = len(entrants)
    rounds: list[tuple[int, float]] = []
    if count > 3:
        rounds = [(count, search / 2 / count), (2, search / 4)]
    elif count > 1:
        rounds = [(count, search / count)]
    spent = sum(n * each for n, each in rounds)
    return Plan(entrants=tuple(places[option] for option in entrants), rounds=tuple(rounds), final_seconds=left - spent)


def judging_seconds(latency: LatencyEstimate | None, *, images: int) -> float:
    """How long it takes to judge the exported files on all images, one after another; 0 where that is not known.

    Args:
        latency: of the network on this machine.
        images: of the split that judges.
    """
    return 0.0 if latency is None else JUDGING * images * latency.median_ms / 1000


def final_seconds(plan: Plan, *, spent: float, asked: float, judging: float = 0.0) -> float:
    """How long the winner is trained, now that it is known.

    Decoding and whatever else the machine does take time that no plan foresees; or rounds were over early.

    Args:
        plan: what was planned before the search.
        spent: seconds of the fit so far.
        asked: seconds that the whole fit may take.
        judging: seconds that the images take which judge at the end.
    """
    return max(LEAST_FINAL * plan.final_seconds, asked - spent - _reserve(asked) - judging)


def _reserve(asked: float) -> float:
    return min(RESERVE_SECONDS, RESERVE_SHARE * asked)


def _elastic_plan(
    fitting: Sequence[Option], places: Mapping[Option, int], promises: Mapping[Option, float], *, left: float
) -> Plan | None:
    """One training for several widths and resolutions of the most promising family, then the best of them alone.

    Who enters are the networks at the edge of the budget: those of the family that no other one exceeds in width and
    resolution alike. None where they have fewer than two widths, so that there is nothing to train together.
    """
    best = max(fitting, key=lambda option: promises[option])
    family = {(o.alpha, o.spec.resolution): o for o in reversed(fitting) if o.family == best.family}
    edge = [
        option
        for (alpha, side), option in family.items()
        if not any(a >= alpha and s >= side and (a, s) != (alpha, side) for a, s in family)
    ]
    if len({option.alpha for option in edge}) < 2:
        return None
    edge.sort(key=lambda option: -promises[option])
    together = TOGETHER_SHARE * left
    return Plan(
        entrants=tuple(places[option] for option in edge),
        rounds=((len(edge), together / len(edge)),),
        final_seconds=left - together,
        together=True,
    )


def no_candidate(candidates: Sequence[Candidate], budget: Budget) -> BudgetError:
    """The error when nothing keeps the budget: names the nearest and what it would take."""

    def excess(candidate: Candidate) -> float:
        ratios = [1.0]
        if budget.latency_ms is not None and candidate.latency is not None:
            ratios.append(candidate.latency.high_ms / budget.latency_ms)
        if budget.size_mb is not None:
            ratios.append(candidate.size_mb / budget.size_mb)
        if budget.mult_adds_m is not None:
            ratios.append(candidate.mult_adds / 1e6 / budget.mult_adds_m)
        return max(ratios)

    timed = [candidate for candidate in candidates if candidate.status != "not measured"]
    if not timed:
        return BudgetError(
            f"the device timed none of {len(candidates)} networks",
            wanted="latencies of the networks that are weighed here",
            do="write the kit for the same images, families, widths, resolutions and weights",
        )
    nearest = min(timed, key=excess)
    needs = []
    if budget.latency_ms is not None and nearest.latency is not None:
        needs.append(f"--latency-ms {_up(nearest.latency.high_ms)}")
    if budget.size_mb is not None:
        needs.append(f"--size-mb {_up(nearest.size_mb)}")
    if budget.mult_adds_m is not None:
        needs.append(f"--mult-adds-m {_up(nearest.mult_adds / 1e6)}")
    more = "" if nearest.precision == "int8" else ", or let int8 compete with --precisions fp32,int8"
    return BudgetError(
        f"none of {len(candidates)} networks keeps the budget; the nearest is {nearest.name} ({nearest.why})",
        wanted="one network that does",
        do=f"it would take {' '.join(needs)}; or allow smaller networks with --alphas and --resolutions{more}",
    )


def _up(value: float) -> str:
    """Rounded up to two digits behind the point."""
    return f"{math.ceil(value * 100) / 100:g}"
