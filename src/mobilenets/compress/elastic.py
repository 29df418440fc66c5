"""One training for every width and resolution of a range, and what came of it: the work of `mobilenets elastic`.

out/  what a training leaves there, and  grid.csv  grid.json  front.png
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..arch import ArchSpec, cost, find, with_resolution
from ..arch.narrower import at_resolution, width_of
from ..bundle import Bundle
from ..data import Dataset, prepared, store
from ..errors import UsageError
from ..files import write_bytes, write_json, write_text
from ..metrics import wilson_interval
from ..records import only_classifiers
from ..train import Distillation, Outcome, Recipe, Tuning, check_teacher
from ..train.choose import native_side, spec_for, store_side
from ..train.elastic import check_lesson, elastic
from ..train.elastic_policy import ElasticPolicy, check_policy
from ..train.loop import Resume
from ..train.run import train_run
from ..train.team import ALONE, Team, join_team
from ..train.validate import bundle_logits
from ..train.way import AS_IT_IS
from .front import GridPoint, draw_front, grid_csv
from .slice import policy_of, slice_bundle

__all__ = ["ElasticOutcome", "grid_widths", "measure_grid", "policy_for", "train_elastic"]

GRID_WIDTHS = 7  # of a range without a list, both ends included


@dataclass(frozen=True)
class ElasticOutcome:
    """What an elastic training made: the widest network with all others inside, and how good these are."""

    training: Outcome
    grid: tuple[GridPoint, ...]  # of `training.best`; empty where the training was interrupted


def policy_for(widths: str | Sequence[float], resolutions: Sequence[int] = ()) -> ElasticPolicy:
    """A policy with the usual shares.

    Args:
        widths: "0.25..1.0" for every width in a range, or some widths: "0.25,0.5,1.0", or numbers.
        resolutions: pixels; empty: the network's own.

    Raises:
        UsageError: fewer than two widths, or not numbers.
        RecipeError: widths that cannot be.
    """
    ends = widths.split("..") if isinstance(widths, str) else []
    listed = widths.split(",") if isinstance(widths, str) else widths
    try:
        alphas = sorted({float(word) for word in (ends if len(ends) == 2 else listed)})
    except ValueError:
        alphas = []
    if len(alphas) < 2:
        raise UsageError(
            f"widths are {widths!r}",
            wanted="a range like 0.25..1.0, or numbers like 0.25,0.5,1.0",
            do="give two at least",
        )
    return ElasticPolicy(
        narrowest=alphas[0],
        widest=alphas[-1],
        inner=None if len(ends) == 2 else tuple(alphas[1:-1]),
        resolutions=tuple(sorted(set(resolutions))),
    )


def train_elastic(
    start: str | ArchSpec | Bundle,
    dataset: Dataset,
    recipe: Recipe,
    policy: ElasticPolicy,
    *,
    out: Path,
    teacher: Bundle | None = None,
    how: Distillation | None = None,
    device: str = "auto",
    resume: Resume = "never",
    keep_mirror: bool = False,
    command: str = "",
    tuning: Tuning = AS_IT_IS,
) -> ElasticOutcome:
    """Train one set of weights for all widths and resolutions of a policy, then measure a grid of them.

    The bundles in `out` are of the widest network; `slice_bundle` takes the others out of them. The grid is measured
    on the validation images. Under `torchrun` every process calls this alike, with a folder that all see: each learns
    from its part of every batch, at the widths that all draw alike, and measures its share of the grid; the first one
    writes.

    Args:
        start: a model's name, the path of a spec's `.json`, a table (its own width is the policy's widest), or a bundle
            to go on from; of an elastic one, the policy's widths go on from what they add.
        dataset: with "train" and "val".
        recipe: how; epochs are passes over the images, of which the widest sees the first ones alone.
        policy: which widths and resolutions.
        out: the run's folder.
        teacher: a trained network whose answers or embedding all widths learn from, as well as from the labels.
        how: temperature and weight of its answers, and whether its embedding is matched; the usual where None.
        device: "auto", "cpu", "cuda", ...
        resume: go on from the checkpoint in `out`: never, if there is one, or it must be there.
        keep_mirror: as in `train_run`.
        command: what a person typed.
        tuning: what is tried for speed before the first step.

    Raises:
        UsageError: the policy does not fit the network, the teacher does not know the classes or its maps are to be
            matched, or there is nothing to resume.
        SpecError: widths that do not nest.
        DataError: images that cannot be used.
        CheckError: the loss is no longer a number.
    """
    only_classifiers(dataset.task, what="elastic")
    alpha = policy.widest if isinstance(start, str) and width_of(find(start)) != policy.widest else None
    resolution = max(policy.resolutions) if policy.resolutions else None
    check_policy(_widest(start, dataset, alpha=alpha, resolution=resolution), policy)  # before anything is written
    if teacher is not None:
        check_lesson(how or Distillation())
        check_teacher(teacher, dataset.labels, how or Distillation())
    own = start.carried_to(dataset.labels, dataset.task).own if isinstance(start, Bundle) else {}
    team = join_team()
    if policy.alone:
        team.say(f"the widest learns alone until {policy.alone:.0%}; accuracy on the way is always that of the widest")
    training = train_run(
        start,
        dataset,
        recipe,
        out=out,
        alpha=alpha,
        resolution=resolution,
        device=device,
        resume=resume,
        keep_mirror=keep_mirror,
        command=command,
        tuning=tuning,
        objective=elastic(policy, own=own, teacher=teacher, how=how),
    )
    if not training.finished:
        return ElasticOutcome(training=training, grid=())
    grid = measure_grid(training.best, dataset, device=device, team=team)
    if team.leads:
        write_text(out / "grid.csv", grid_csv(grid))
        write_json(out / "grid.json", [msgspec.to_builtins(point) for point in grid])
        title = f"{training.best.spec.name} on {dataset.name}: every width and resolution of one training"
        write_bytes(out / "front.png", draw_front(grid, title=title))
    return ElasticOutcome(training=training, grid=grid)


def _widest(
    start: str | ArchSpec | Bundle, dataset: Dataset, *, alpha: float | None, resolution: int | None
) -> ArchSpec:
    """The table that `train_run` will train."""
    if isinstance(start, Bundle):
        return start.spec if resolution is None else at_resolution(start.spec, resolution)
    side, classes = native_side(dataset), len(dataset.labels)
    return spec_for(start, alpha=alpha, resolution=resolution, native_side=side, classes=classes)


def grid_widths(policy: ElasticPolicy) -> tuple[float, ...]:
    """The widths that are measured: those of a list, or some at equal distances."""
    if policy.inner is not None:
        return (policy.narrowest, *sorted(policy.inner), policy.widest)
    steps = np.linspace(policy.narrowest, policy.widest, GRID_WIDTHS)
    return tuple(round(float(alpha), 3) for alpha in steps)


def measure_grid(
    bundle: Bundle,
    dataset: Dataset,
    *,
    widths: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    device: str = "auto",
    team: Team = ALONE,
) -> tuple[GridPoint, ...]:
    """Slice an elastic bundle and measure each slice on the validation images.

    A slice depends on the bundle and the images alone, so it does not matter which process measures it.

    Args:
        bundle: elastic.
        dataset: the one it was trained on.
        widths: None: those of the policy's list, or some of its range.
        resolutions: None: the policy's.
        device: "auto", "cpu", "cuda", ...
        team: processes that all call this alike; each measures a share of the points.

    Returns:
        Points, narrowest first, and of each width the smallest resolution first; in every process all of them.

    Raises:
        UsageError: as `slice_bundle` does.
    """
    policy = policy_of(bundle)
    alphas = grid_widths(policy) if widths is None else tuple(widths)
    sides = (policy.resolutions or (bundle.spec.resolution,)) if resolutions is None else tuple(resolutions)
    wanted = [(alpha, side) for alpha in alphas for side in sides]
    if team.world > 1:
        with team.leader_first():
            _decode(bundle, dataset, sides)
    # Cheap and dear ones are dealt out like cards, so that all are done at about the same time.
    dealt = sorted(range(len(wanted)), key=lambda place: wanted[place][0] * wanted[place][1])
    made: list[tuple[int, GridPoint]] = []
    for card in team.own_rows(len(dealt)).tolist():
        place = dealt[card]
        alpha, side = wanted[place]
        sliced = slice_bundle(bundle, alpha=alpha, resolution=side, dataset=dataset, device=device)
        point = _measured(sliced, alpha, dataset, device=device)
        made.append((place, point))
        team.say(f"alpha {alpha:g} at {side} pixels: {point.top1:.2f} %, {point.mult_adds / 1e6:.1f} M mult-adds")
    texts = team.share_texts(msgspec.json.encode(made).decode())
    found = [pair for text in texts for pair in msgspec.json.decode(text, type=list[tuple[int, GridPoint]])]
    return tuple(point for _, point in sorted(found, key=lambda pair: pair[0]))


def _decode(bundle: Bundle, dataset: Dataset, sides: Sequence[int]) -> None:
    """Fill the caches that slices of these resolutions read, so that no two processes decode the same images."""
    for side in sides:
        spec = with_resolution(bundle.spec, side)
        prepared(dataset, "val", msgspec.structs.replace(bundle.preprocess, resolution=side))
        store(dataset, "train", side=store_side(spec, native_side=native_side(dataset)), channels=spec.channels)


def _measured(sliced: Bundle, alpha: float, dataset: Dataset, *, device: str) -> GridPoint:
    validation = prepared(dataset, "val", sliced.preprocess)
    logits = bundle_logits(sliced, validation.images, device=device)
    right = int((logits.argmax(axis=1) == validation.targets).sum())
    low, high = wilson_interval(right, len(validation))
    counted = cost(sliced.spec)
    return GridPoint(
        model=sliced.spec.name,
        alpha=alpha,
        resolution=sliced.spec.resolution,
        mult_adds=counted.mult_adds,
        parameters=counted.parameters,
        top1=100 * right / len(validation),
        top1_low=100 * low,
        top1_high=100 * high,
        n=len(validation),
    )
