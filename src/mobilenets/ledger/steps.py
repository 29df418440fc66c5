"""The steps of the ledger, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, assert_never

import msgspec

from ..bundle import Bundle
from ..compress import Measure, Target, costs_of, prune_run
from ..data import Dataset
from ..errors import BudgetError, SpecError, UsageError
from ..export.images import calibration_images
from ..export.int8 import starting_ranges
from ..export.int8.aware import check_trainable, int8_aware
from ..records import Precision
from ..train import CrossEntropy, MakeObjective, Recipe, distil
from ..train.run import train_run
from .judge import Gain
from .records import Line, Measured, Plan, StepName

__all__ = ["STEPS", "LeftOut", "Made", "Standing", "Step", "Stopped", "Work", "for_int8", "over_budget"]

INT8_RATE: Final = 0.2  # of other trainings' rate: what is learned are roundings, by a network that knows its task
ROOM: Final = 5e-4  # 10^6 bytes of a file's graph: a pruned network has a longer name


@dataclass(frozen=True)
class Standing:
    """What a step starts from."""

    bundle: Bundle
    measured: Measured
    in_vain: tuple[Line, ...] = ()  # steps from here that were taken back or left out

    @property
    def precision(self) -> Precision:
        """Of its artifact."""
        return self.measured.precision


@dataclass(frozen=True)
class Work:
    """What every step may use."""

    plan: Plan
    most: float | None  # what the plan's target allows, as a number
    dataset: Dataset
    teacher: Bundle | None  # None: none, or the plan says "self"
    measure: Callable[[Precision], Measure] | None
    device: str
    keep_mirror: bool
    command: str


class Made(NamedTuple):
    """A network to be exported in that precision, and what the step has to say of it."""

    bundle: Bundle
    precision: Precision
    note: str


class LeftOut(NamedTuple):
    """There was nothing to do."""

    why: str


class Stopped(NamedTuple):
    """Ctrl-C; everything is kept, and the same step goes on."""


Outcome: TypeAlias = Made | LeftOut | Stopped


class Step(NamedTuple):
    """One row of the table: how a step is done, in a folder of its own, and what it is for."""

    make: Callable[[Standing, Work, Path], Outcome]
    pays_by: tuple[Gain, ...]


def _distilled(standing: Standing, work: Work, folder: Path) -> Outcome:
    """The same network, trained on with a teacher."""
    if work.plan.teacher == "self":
        return LeftOut("a network has nothing to teach itself before it is cut")
    if work.teacher is None:
        return LeftOut("no teacher was given")
    outcome = train_run(
        standing.bundle,
        work.dataset,
        work.plan.recipe,
        out=folder,
        device=work.device,
        resume="if_there",
        keep_mirror=work.keep_mirror,
        command=work.command,
        objective=distil(work.teacher, work.plan.distillation),
    )
    if not outcome.finished:
        return Stopped()
    return Made(outcome.best, standing.precision, f"taught by {work.teacher.spec.name}")


def _pruned(standing: Standing, work: Work, folder: Path) -> Outcome:
    """A narrower network, trained on."""
    plan, target = work.plan, work.plan.target
    if target is None or work.most is None:
        raise UsageError("pruning without a bound", wanted="target", do="give one, or leave the step prune out")
    if over_budget(standing.measured, of=target, most=work.most) is None:
        return LeftOut(f"{target.of} {_amount(standing.measured, target):.6g} keeps {work.most:.6g} already")
    measure = None if work.measure is None else work.measure(standing.precision)
    whole = measure(standing.bundle.spec) if target.of == "latency_ms" and measure is not None else None
    most = _bound(standing, target, work.most)
    if whole is not None and whole <= most:
        return LeftOut(f"its table was measured with {whole:.3f} ms, which keeps {most:g} ms already")
    made = prune_run(
        standing.bundle,
        work.dataset,
        Target(of=target.of, most=most),
        out=folder,
        recipe=plan.recipe,
        steps=plan.cuts,
        importance=plan.importance,
        allocation=plan.allocation,
        limits=plan.limits,
        measure=measure,
        teacher=standing.bundle if plan.teacher == "self" else work.teacher,
        distillation=plan.distillation,
        device=work.device,
        resume=True,
        keep_mirror=work.keep_mirror,
        command=work.command,
    )
    if not made.finished:
        return Stopped()
    cuts = [
        f"{100 * cut.top1:.2f} %" + ("" if cut.trained_top1 is None else f", trained {100 * cut.trained_top1:.2f} %")
        for cut in made.steps
    ]
    return Made(made.best, standing.precision, f"top-1 after the cut {'; '.join(cuts)}")


def _quantised(standing: Standing, work: Work, folder: Path) -> Outcome:
    """The same network in int8; the export does it, behind its gate."""
    if standing.precision == "int8":
        return LeftOut("it is int8 already")
    return Made(standing.bundle, "int8", "")


def _weights_in_bytes(standing: Standing, work: Work, folder: Path) -> Outcome:
    """The same network with its weights in int8, which answers in float32."""
    if standing.precision != "fp32":
        return LeftOut("its weights are bytes already")
    return Made(standing.bundle, "int8-weights", "")


def for_int8(recipe: Recipe, *, epochs: float | None) -> Recipe:
    """A recipe as the step "qat" follows it.

    At a fifth of the rate, in float32, for bfloat16 has no more digits than a byte, and with norms that keep their
    statistics, for ranges belong to them.

    Args:
        recipe: of the other trainings.
        epochs: None: as long as those.

    Raises:
        RecipeError: epochs that cannot be.
    """
    made = msgspec.structs.replace(recipe, lr=INT8_RATE * recipe.lr, precision="fp32", recalibrate=0)
    return made if epochs is None else msgspec.structs.replace(made, epochs=epochs, seconds=None)


def _trained_for_int8(standing: Standing, work: Work, folder: Path) -> Outcome:
    """The same network in int8, trained through its roundings."""
    if why := _needless(standing, work.plan):
        return LeftOut(why)
    recipe = for_int8(work.plan.recipe, epochs=work.plan.qat)
    teacher = standing.bundle if work.plan.teacher == "self" else work.teacher
    objective: MakeObjective = CrossEntropy if teacher is None else distil(teacher, work.plan.distillation)
    start = starting_ranges(standing.bundle, calibration_images(work.dataset, standing.bundle.preprocess))
    try:
        check_trainable(standing.bundle, start)
    except SpecError as error:
        return LeftOut(f"{error.got}; trained for int8 is {error.wanted}")
    outcome = train_run(
        standing.bundle,
        work.dataset,
        recipe,
        out=folder,
        device=work.device,
        resume="if_there",
        keep_mirror=work.keep_mirror,
        command=work.command,
        objective=int8_aware(start, objective),
    )
    if not outcome.finished:
        return Stopped()
    length = f"{recipe.epochs:g} epochs" if recipe.epochs is not None else f"{recipe.seconds:g} s"
    taught = "" if teacher is None else f", taught by {teacher.spec.name}"
    return Made(outcome.best, "int8", f"trained for int8 for {length} at a rate of {recipe.lr:g}{taught}")


def _needless(standing: Standing, plan: Plan) -> str | None:
    """Why training for int8 has nothing to mend; None: it has."""
    quantised = [line for line in standing.in_vain if line.step == "quantise" and line.verdict == "rolled back"]
    if quantised and not quantised[-1].lost:
        return "int8 was not taken back for its answers, and training changes nothing else"
    if standing.precision == "int8" and plan.qat is None:
        return "int8 stands without it"
    return None


# The order in which they are done is the plan's; this is the usual one.
STEPS: Final[Mapping[StepName, Step]] = MappingProxyType(
    {
        "distil": Step(_distilled, ("accuracy",)),
        "prune": Step(_pruned, ("cost",)),
        "quantise": Step(_quantised, ("cost",)),
        # Behind float32 it pays by what int8 saves; behind an int8 that stands already, by being more often right.
        "qat": Step(_trained_for_int8, ("accuracy", "cost")),
        # For what int8 cannot answer: a quarter of the bytes all the same.
        "weights": Step(_weights_in_bytes, ("cost",)),
    }
)


def over_budget(measured: Measured, *, of: Target, most: float) -> str | None:
    """How an artifact exceeds the bound; None where it keeps it. Latencies are held against their pessimistic end."""
    amount = _amount(measured, of)
    return None if amount <= most else f"{of.of} is {amount:.6g}, and {most:.6g} was asked for"


def _amount(measured: Measured, target: Target) -> float:
    if target.of == "mult_adds":
        return measured.mult_adds
    if target.of == "parameters":
        return measured.parameters
    if target.of == "size_mb":
        return measured.size_mb
    if target.of == "latency_ms":
        return measured.latency.high_ms
    assert_never(target.of)


def _bound(standing: Standing, target: Target, most: float) -> float:
    """The bound for pruning, which counts numbers in float32, where the ledger counts the file with its graph."""
    if target.of != "size_mb":
        return most
    numbers = costs_of(standing.bundle.spec)["size_mb"]
    share = 1.0 if standing.precision == "fp32" else 0.25  # of those bytes that are in the file
    graph = standing.measured.size_mb - share * numbers + ROOM
    if graph >= most:
        raise BudgetError(
            f"without any weights the file has about {graph:.4g} MB",
            wanted=f"at most {most:.4g} MB",
            do="allow more, or start from a network with fewer rows",
        )
    return (most - graph) / share
