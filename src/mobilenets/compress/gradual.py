"""Pruning in steps, with training between: what `mobilenets prune` does when it is given images.

out/  prune.json  step-1/{cut, train, step.json}  step-2/...  best
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..bundle import Bundle, read_bundle
from ..data import Dataset, store
from ..errors import UsageError
from ..files import read_json, write_json
from ..progress import say
from ..records import from_json, to_json
from ..train import CrossEntropy, Distillation, Recipe, check_teacher, distil
from ..train.choose import native_side, recipe_for, store_side
from ..train.loader import Batches
from ..train.run import train_run
from ..train.validate import check_same_labels, validate_bundle
from .allocate import Allocation, Limits
from .importance import Importance
from .prune import Measure, Target, costs_of, prune

__all__ = ["BATCH", "Pruned", "Step", "prune_run"]

PLAN_NAME = "prune.json"
STEP_NAME = "step.json"
BATCH = 128  # images for Taylor scores and statistics, where no recipe says another


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One cut and the training behind it. Accuracies are of the validation images, in [0, 1]."""

    mult_adds: float
    parameters: float
    size_mb: float
    top1: float  # after the cut, with the norms' statistics taken anew
    trained_top1: float | None  # None: not trained
    latency_ms: float | None = None  # measured, where that is the target


@dataclass(frozen=True)
class Pruned:
    """What pruning made."""

    best: Bundle
    top1: float  # of the whole network, on the validation images, in [0, 1]
    steps: tuple[Step, ...]
    finished: bool  # False: interrupted; the same call with `resume` goes on from there


def prune_run(
    bundle: Bundle,
    dataset: Dataset,
    target: Target,
    *,
    out: Path,
    recipe: Recipe | None = None,
    steps: int = 1,
    importance: Importance = "taylor",
    allocation: Allocation = "global",
    limits: Limits | None = None,
    measure: Measure | None = None,
    teacher: Bundle | None = None,
    distillation: Distillation | None = None,
    device: str = "auto",
    resume: bool = False,
    keep_mirror: bool = False,
    command: str = "",
) -> Pruned:
    """Prune a network in one or several steps, train it behind each, and leave everything about it in `out`.

    With several steps each cuts by the same factor, and ranks the channels anew by what training made of them. `best`
    of the last training is the result, `out/best`.

    Args:
        bundle: a trained network.
        dataset: with "train" and "val" and the labels of the bundle.
        target: what the result may cost.
        out: the run's folder.
        recipe: of the training behind every step; None: none.
        steps: how many.
        importance: how channels are ranked.
        allocation: "uniform" or "global".
        limits: how narrow widths may become; None: the usual ones.
        measure: how long a network takes, for a target in milliseconds.
        teacher: what the training behind every step also learns from; the whole network is the nearest one. None: the
            labels alone.
        distillation: what is learned from the teacher; None: the usual.
        device: "auto", "cpu", "cuda", ...
        resume: go on with the run in `out`; without a run there, begin.
        keep_mirror: mirror as the recipe says, also where the data set says that mirrored images are others.
        command: what a person typed, for the training's `args.yaml`.

    SIGINT during a training stops after the step at hand and keeps everything; so does being killed at any moment.

    Raises:
        BudgetError: the target cannot be kept within the limits.
        UsageError: the data has other labels, the teacher does not know them, what is asked for does not go together,
            or `out` holds another run.
        DataError: images that cannot be used.
        CheckError: the network does not answer with finite numbers.
    """
    check_same_labels(bundle, dataset)
    if steps < 1:
        raise UsageError(f"{steps} steps", wanted="at least 1", do="correct steps")
    lesson = _lesson(teacher, distillation, recipe, dataset)
    whole = _cost(bundle, target, measure)
    most = target.absolute(whole)
    if whole <= most:
        raise UsageError(
            f"the network has {target.of} = {whole:.6g}",
            wanted=f"more than {most:.6g}, or nothing to do",
            do="lower the bound",
        )
    plan = {
        "bundle": bundle.digest,
        "data": dataset.digest,
        "target": to_json(target),
        "steps": steps,
        "importance": importance,
        "allocation": allocation,
        "limits": to_json(Limits() if limits is None else limits),
        "recipe": None if recipe is None else to_json(recipe),
        "teacher": None if teacher is None else teacher.digest,
        "distillation": None if lesson is None else to_json(lesson),
    }
    top1 = _begin(out, plan, bundle, dataset, resume=resume, device=device)
    done: list[Step] = []
    current = bundle
    for number in range(1, steps + 1):
        folder = out / f"step-{number}"
        if (folder / STEP_NAME).is_file():
            done.append(from_json(read_json(folder / STEP_NAME, what="step"), Step, what=str(folder / STEP_NAME)))
            current = read_bundle(_made(folder, recipe))
            continue
        bound = most if number == steps else whole * (most / whole) ** (number / steps)
        cut = _cut(
            current,
            dataset,
            Target(of=target.of, most=bound),
            folder=folder / "cut",
            recipe=recipe,
            importance=importance,
            allocation=allocation,
            limits=limits,
            measure=measure,
            device=device,
        )
        top1_cut = validate_bundle(cut, dataset, split="val", device=device).top1
        say(f"step {number} of {steps}: {_costs(cut)}, top-1 {100 * top1_cut:.2f} % before training")
        current, trained = cut, None
        if recipe is not None:
            outcome = train_run(
                cut,
                dataset,
                recipe,
                out=folder / "train",
                device=device,
                resume="if_there",
                keep_mirror=keep_mirror,
                command=command,
                objective=CrossEntropy if teacher is None else distil(teacher, lesson),
            )
            if not outcome.finished:
                return Pruned(best=outcome.best, top1=top1, steps=tuple(done), finished=False)
            current, trained = outcome.best, outcome.top1
        done.append(_step(cut, top1=top1_cut, trained=trained))
        write_json(folder / STEP_NAME, to_json(done[-1]))
    current.write(out / "best")
    return Pruned(best=current, top1=top1, steps=tuple(done), finished=True)


def _lesson(
    teacher: Bundle | None, how: Distillation | None, recipe: Recipe | None, dataset: Dataset
) -> Distillation | None:
    """What is learned from the teacher; None without one. Whether it can teach is told before anything is written."""
    if teacher is None:
        if how is not None:
            raise UsageError("distillation without a teacher", wanted="whom to learn from", do="give teacher")
        return None
    if recipe is None:
        raise UsageError("a teacher, and no training", wanted="a recipe", do="give one, or leave the teacher away")
    lesson = how or Distillation()
    check_teacher(teacher, dataset.labels, lesson)
    return lesson


def _cost(bundle: Bundle, target: Target, measure: Measure | None) -> float:
    """What the network costs of what is bounded."""
    if target.of != "latency_ms":
        return costs_of(bundle.spec)[target.of]
    if measure is None:
        raise UsageError(
            "a latency to keep, and no way to measure", wanted="measure", do="give one, or bound mult_adds"
        )
    return measure(bundle.spec)


def _begin(out: Path, plan: dict[str, Any], bundle: Bundle, dataset: Dataset, *, resume: bool, device: str) -> float:
    """Write what is to be done, or check that it is what was begun here; the whole network's accuracy."""
    path = out / PLAN_NAME
    plan = msgspec.json.decode(msgspec.json.encode(plan))  # as it will be read: lists, no tuples
    if resume and path.is_file():
        before = read_json(path, what="run of prune")
        if other := [key for key, value in plan.items() if before.get(key) != value]:
            raise UsageError(
                f"{path} is of another run: not the same as then: {', '.join(other)}",
                wanted="the same command and the same images as before",
                do="repeat that command, or prune into another folder",
            )
        return float(before["top1"])
    top1 = validate_bundle(bundle, dataset, split="val", device=device).top1
    say(f"before: {_costs(bundle)}, top-1 {100 * top1:.2f} %")
    write_json(path, {**plan, "top1": top1})
    return top1


def _cut(
    bundle: Bundle,
    dataset: Dataset,
    target: Target,
    *,
    folder: Path,
    recipe: Recipe | None,
    importance: Importance,
    allocation: Allocation,
    limits: Limits | None,
    measure: Measure | None,
    device: str,
) -> Bundle:
    """Prune by one step, or read what an interrupted run pruned."""
    if folder.exists():
        return read_bundle(folder)
    if _cost(bundle, target, measure) <= target.most:  # the step before went that far, for widths go in steps
        bundle.write(folder)
        return bundle
    side = store_side(bundle.spec, native_side=native_side(dataset))
    images = store(dataset, "train", side=side, channels=bundle.spec.channels)
    drawn = recipe_for(Recipe(epochs=1.0, batch_size=BATCH) if recipe is None else recipe, dataset)
    cut = prune(
        bundle,
        target,
        importance=importance,
        allocation=allocation,
        limits=limits,
        batches=Batches(images, drawn, bundle.preprocess),
        measure=measure,
        device=device,
    )
    cut.write(folder)
    return cut


def _step(cut: Bundle, *, top1: float, trained: float | None) -> Step:
    measured = cut.history[-1].get("latency_ms")
    return Step(
        **costs_of(cut.spec),
        top1=top1,
        trained_top1=trained,
        latency_ms=None if measured is None else measured["after"],
    )


def _made(folder: Path, recipe: Recipe | None) -> Path:
    return folder / "cut" if recipe is None else folder / "train" / "best"


def _costs(bundle: Bundle) -> str:
    costs = costs_of(bundle.spec)
    return f"{costs['mult_adds'] / 1e6:.2f} M mult-adds, {costs['parameters'] / 1e3:.0f} k parameters"
