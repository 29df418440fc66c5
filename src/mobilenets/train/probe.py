"""Twenty seconds in which a run finds out how this machine computes it fastest."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
import torch

from ..nets import Network
from .checkpoint import Progress
from .compiled import check_compiles, compiled_if_faster
from .learner import Learner
from .loader import Batches, Drawn
from .machine import Exact, computes_bfloat16
from .recipe import Recipe
from .team import Team
from .trial import MakeLearner, Trial, measure
from .way import Tuning, Way, precision_name, usual_way

__all__ = ["Speed", "find_way", "pick", "speeds_of", "ways_open"]

PROBE_SECONDS = 20.0
BATCHES = 4  # that are drawn before and taken in turn: drawing runs beside the steps, so it is not measured
ROUNDING = 1.05  # lower precision rounds, so it has to be faster by so much


@dataclass(frozen=True)
class Speed:
    """A way, and what was measured of it."""

    way: Way
    images_per_second: float  # from the median step
    steps: int


def find_way(
    network: Network,
    learner: Callable[..., Learner],
    recipe: Recipe,
    tuning: Tuning,
    *,
    before: Progress | None,
    device: torch.device,
    batches: Batches,
    team: Team,
) -> Way:
    """How a run computes: as its checkpoint says where it goes on, else what was measured, else the usual way.

    Nothing here changes what is learned: copies are measured, and random numbers are given back. In a team all measure,
    and the first one's choice is everybody's.

    Args:
        network: with the weights to begin with, on the device; copies of it are measured.
        learner: `Learner`, for what is not said here.
        recipe: how; a precision that it fixes stays.
        tuning: what is tried.
        before: where a run stands that goes on.
        device: where the network is.
        batches: of the run.
        team: of the run.

    Raises:
        UsageError: the run was compiled before it was stopped, and torch cannot compile here any more.
        DataError: an image cannot be drawn.
    """

    def make(way: Way) -> Learner:
        copied = copy.deepcopy(network)
        return learner(copied, dtype=way.dtype, compiled=way.compiled, team=Team(), trial=True)

    way = usual_way(recipe, device)
    kept = way if before is None or before.way is None else before.way
    if not kept.compiled and (before is not None or not tuning.asked):
        return kept
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        drawn = list(islice(batches.epoch(0), BATCHES))
        if before is not None:
            check_compiles(kept, make, drawn, say=team.say)
            return kept
        if tuning.probe:
            way = _probed(ways_open(recipe, device), make, drawn, say=team.say)
        if tuning.compile:
            steps = None if recipe.epochs is None else max(1, round(recipe.epochs * batches.per_epoch))
            way = compiled_if_faster(way, make, drawn, steps=steps, say=team.say)
    return msgspec.json.decode(team.share_text(msgspec.json.encode(way).decode()), type=Way)


def ways_open(recipe: Recipe, device: torch.device) -> tuple[Way, ...]:
    """What can be tried, the usual way first: time may end before the last one has its turn.

    bfloat16 where the processor multiplies it, be it slowly; on a CPU one thread beside all that torch has. A GPU that
    does not, float16.
    """
    first = usual_way(recipe, device)
    both = recipe.precision == "auto" and (first.precision != "fp32" or computes_bfloat16(device))
    threads = (first.threads, 1) if device.type == "cpu" and first.threads > 1 else (first.threads,)
    other: Exact = "bf16" if first.precision == "fp32" else "fp32"
    precisions: tuple[Exact, ...] = (first.precision, other) if both else (first.precision,)
    return tuple(Way(precision=precision, threads=count) for count in threads for precision in precisions)


def pick(speeds: Sequence[Speed]) -> tuple[Speed, str]:
    """The one to train with, and why.

    The fastest; but bfloat16 and float16 round, so float32 is preferred to them where that costs less than 5 %.
    """
    ranked = sorted(speeds, key=lambda speed: -speed.images_per_second)
    fastest, *slower = ranked
    exact = next((speed for speed in ranked if speed.way.precision == "fp32"), None)
    if not slower:
        return fastest, "nothing else was measured"
    if (
        exact is not None
        and fastest.way.precision != "fp32"
        and fastest.images_per_second < ROUNDING * exact.images_per_second
    ):
        share = fastest.images_per_second / exact.images_per_second - 1
        return exact, f"{precision_name(fastest.way.precision)} is only {100 * share:.0f} % faster, and it rounds"
    return fastest, f"the fastest, {fastest.images_per_second / slower[0].images_per_second:.2f}x the next"


def speeds_of(trials: Sequence[Trial], *, images: int) -> list[Speed]:
    """What was measured of those that had a turn; where time ended before all had two steps, by their first steps."""
    tried = [trial for trial in trials if trial.warming]
    if all(trial.seconds for trial in trials):
        return [Speed(trial.way, images / statistics.median(trial.seconds), len(trial.seconds)) for trial in tried]
    return [Speed(trial.way, images / trial.warming[0], 1) for trial in tried]


def _probed(ways: Sequence[Way], make: MakeLearner, drawn: Sequence[Drawn], *, say: Callable[[str], None]) -> Way:
    """The way that is picked after all had their turn; says what was measured."""
    learners: dict[torch.dtype, Learner] = {}
    for way in ways:
        if way.dtype not in learners:
            learners[way.dtype] = make(way)
    trials = [Trial(way, learners[way.dtype], drawn) for way in ways]
    measure(trials, seconds=PROBE_SECONDS)
    images = len(drawn[0].targets)
    speeds = speeds_of(trials, images=images)
    chosen, why = pick(speeds)
    for line in _table(ways, speeds, chosen, images=images):
        say(line)
    say(f"probe: {chosen.way.describe()}: {why}")
    return chosen.way


def _table(ways: Sequence[Way], speeds: Sequence[Speed], chosen: Speed, *, images: int) -> Iterator[str]:
    yield f"probe: steps of {images} images on copies of the network"
    wide = max(len(way.describe()) for way in ways)
    told = {speed.way: speed for speed in speeds}
    for way in ways:
        speed = told.get(way)
        if speed is None:
            yield f"  {way.describe():<{wide}}  no time for a step"
            continue
        steps = "step" if speed.steps == 1 else "steps"
        mark = "  <" if speed is chosen else ""
        yield f"  {way.describe():<{wide}}  {speed.images_per_second:8,.0f} images/s  ({speed.steps} {steps}){mark}"
