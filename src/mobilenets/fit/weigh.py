"""From candidates to a plan: their costs, their latencies on this machine, and who is trained for how long."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..progress import say
from ..train import Recipe
from .candidates import Option
from .device import DeviceTable
from .latency import LatencyTable
from .plan import candidate_of, make_plan, static_status, timed_status
from .records import Budget, Candidate, LatencyEstimate
from .speed import training_speeds
from .state import Plan

__all__ = ["weigh"]

MEASURING_SHARE = 0.25  # of the time, at most, before anything is trained


def weigh(
    choices: Sequence[Option],
    budget: Budget,
    table: LatencyTable | DeviceTable,
    recipe: Recipe,
    *,
    device: str,
    train_images: int,
    deadline: float,
    asked: float,
    elastic: bool,
) -> tuple[tuple[Candidate, ...], Plan | None]:
    """What each choice costs and whether it keeps the budget; and the plan, None where none does.

    Args:
        choices: the candidates.
        budget: what they must keep.
        table: measures latencies, or has those of another device.
        recipe: how they would be trained.
        device: to train on.
        train_images: in an epoch.
        deadline: when the fit is to end, by `time.monotonic`.
        asked: seconds that the whole fit may take.
        elastic: train several at once.
    """
    statuses = {option: static_status(option, budget) for option in choices}
    small_enough = [option for option, status in statuses.items() if status is None]
    estimates: dict[Option, LatencyEstimate] = {}
    if budget.latency_ms is not None and small_enough:
        where = "on this machine" if isinstance(table, LatencyTable) else "by the device's latencies"
        say(f"timing networks {where}: {len(small_enough)} of {len(choices)} keep the budget so far")
        share = MEASURING_SHARE * max(0.0, deadline - time.monotonic())
        estimates = table.estimate(small_enough, limit_ms=budget.latency_ms, seconds=share)
        statuses |= {option: timed_status(estimates.get(option), budget) for option in small_enough}
    places = {option: place for place, option in enumerate(choices)}
    speeds: dict[Option, float] = {}
    while True:
        fitting = [option for option in choices if statuses[option] is None]
        candidates = tuple(candidate_of(o, latency=estimates.get(o), status=statuses[o]) for o in choices)
        if not fitting:
            return candidates, None
        speeds = speeds or training_speeds(fitting, recipe, device=device)
        plan = make_plan(
            fitting,
            places,
            speeds,
            train_images=train_images,
            seconds=deadline - time.monotonic(),
            asked=asked,
            elastic=elastic,
        )
        # A prediction may bring nobody into training: who enters is measured first.
        guessed = [choices[place] for place in plan.entrants if _predicted(candidates[place])]
        if not guessed:
            return candidates, plan
        for option in guessed:
            estimates[option] = table.confirm(option)
            statuses[option] = timed_status(estimates[option], budget)


def _predicted(candidate: Candidate) -> bool:
    return candidate.latency is not None and candidate.latency.how == "predicted"
