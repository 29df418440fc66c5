"""From a network and what may be lost to a smaller, faster one: what `mobilenets compress` does.

out/  ledger.json  ledger.md  start/fp32  1-distil/{run, fp32}  2-prune/{run, fp32}  3-quantise/int8
      4-qat/{run, fp32, int8}  5-weights/int8-weights  best  artifact
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..bundle import Bundle
from ..compress import Allocation, Importance, Limits, Measure, Target
from ..data import Dataset
from ..errors import UsageError
from ..records import Environment, Precision
from ..runtime import default_threads
from ..train import Distillation, Recipe, check_teacher
from ..train.validate import check_same_labels
from .account import Account
from .records import Ledger, Plan, StepName
from .steps import STEPS, Work, for_int8

__all__ = ["Pruning", "compress"]


class Pruning(NamedTuple):
    """How the step "prune" goes about it; see `compress.prune_run`."""

    cuts: int = 1
    importance: Importance = "taylor"
    allocation: Allocation = "global"
    limits: Limits = Limits()


def compress(
    bundle: Bundle,
    dataset: Dataset,
    *,
    out: Path,
    recipe: Recipe,
    steps: Sequence[str] = tuple(STEPS),
    target: Target | None = None,
    max_drop: float = 1.0,
    teacher: Bundle | Literal["self"] | None = None,
    distillation: Distillation | None = None,
    pruning: Pruning | None = None,
    qat: float | None = None,
    measure: Callable[[Precision], Measure] | None = None,
    threads: int | None = None,
    device: str = "auto",
    resume: bool = False,
    keep_mirror: bool = False,
    command: str = "",
) -> Ledger:
    """Make a network smaller and faster step by step, keep what pays, and account for everything.

    Behind each step the network is exported through the gate, judged on the validation images as the file answers, and
    timed in turn with the starting artifact and with what stood before. What loses more than `max_drop` points against
    the start, or brings nothing, is rolled back (`judge`), and so is what a gate refuses; the next step then starts
    from what stood before. `out/best` and `out/artifact` are the last state that stands, be it the start.

    The step "qat" is for what "quantise" loses: where int8 was taken back for its answers, the network is trained
    through its roundings (`export.int8.aware`), at a fifth of the recipe's rate, and int8 is tried again. The step
    "weights" is for what is float32 even then: its weights become bytes, and it goes on answering in float32.

    Args:
        bundle: a trained network.
        dataset: with "train" and "val" and the labels of the bundle; all of "test", if there is one, judges the start
            and the end.
        out: the run's folder.
        recipe: of every training.
        steps: names in `STEPS`, in the order in which they are done.
        target: what pruning cuts to, in the precision that stands: before "quantise" that is float32. A share is one of
            what the start costs. Sizes are those of the artifact.
        max_drop: points of validation top-1 that may be lost, all steps together.
        teacher: of the step "distil", of the training behind cuts and of that for int8; "self": the network as it was
            before the cut or the rounding, and no step "distil".
        distillation: what is learned from the teacher; None: the usual.
        pruning: how channels are chosen; None: the usual way.
        qat: epochs of the step "qat", which then is done also where int8 stands without it, and stays if it is more
            often right; None: only where "quantise" lost too much, or is not among the steps, and as the recipe says.
        measure: for a target in milliseconds, how long networks take in a precision.
        threads: of the engine that is timed; None: its default.
        device: to train on.
        resume: go on with the run in `out`; without a run there, begin.
        keep_mirror: mirror as the recipe says, also where the data set says that mirrored images are others.
        command: what a person typed, for the trainings' `args.yaml`.

    Returns:
        The ledger. Not `finished`: a training was interrupted by SIGINT; the same call with `resume` goes on, as it
        does after being killed at any moment.

    Raises:
        UsageError: the data has other labels, the teacher does not know them, what is asked for does not go together,
            or `out` holds another run.
        GateError: the network as it is does not pass the gate; nothing can be compared with it.
        CheckError: an engine crashed.
    """
    how = pruning or Pruning()
    check_same_labels(bundle, dataset)
    chosen = _chosen(steps)
    _check(chosen, target=target, max_drop=max_drop, measure=measure)
    if qat is not None:
        if "qat" not in chosen:
            raise UsageError(f"qat = {qat:g}, and no such step", wanted="qat among the steps", do="add it to them")
        for_int8(recipe, epochs=qat)
    lesson = None if teacher is None else distillation or Distillation()
    if isinstance(teacher, Bundle) and lesson is not None:
        check_teacher(teacher, dataset.labels, lesson)
    environment = Environment.capture()
    plan = Plan(
        bundle=bundle.digest,
        model=bundle.spec.name,
        data=dataset.digest,
        steps=chosen,
        target=target,
        max_drop=max_drop,
        recipe=recipe,
        qat=qat,
        teacher=teacher.digest if isinstance(teacher, Bundle) else teacher,
        distillation=lesson,
        cuts=how.cuts,
        importance=how.importance,
        allocation=how.allocation,
        limits=how.limits,
        threads=threads or default_threads(),
        machine=environment.machine_digest,
    )
    account = Account(out, bundle, dataset, Ledger(plan=plan, environment=environment, most=None))
    account.open(resume=resume, measure=measure)
    work = Work(
        plan=plan,
        most=account.ledger.most,
        dataset=dataset,
        teacher=teacher if isinstance(teacher, Bundle) else None,
        measure=measure,
        device=device,
        keep_mirror=keep_mirror,
        command=command,
    )
    for number, name in enumerate(chosen, start=1):
        if len(account.ledger.lines) <= number and not account.take(number, name, work):
            return account.ledger
    account.close()
    return account.ledger


def _chosen(steps: Sequence[str]) -> tuple[StepName, ...]:
    known: dict[str, StepName] = {name: name for name in STEPS}
    if not steps or len(set(steps)) < len(steps) or not set(steps) <= known.keys():
        raise UsageError(
            f"steps {', '.join(steps)}", wanted=f"some of {', '.join(known)}, each once", do="correct the steps"
        )
    return tuple(known[name] for name in steps)


def _check(
    steps: tuple[StepName, ...],
    *,
    target: Target | None,
    max_drop: float,
    measure: Callable[[Precision], Measure] | None,
) -> None:
    if "prune" in steps and target is None:
        raise UsageError(
            "pruning without a bound", wanted="what the result may cost", do="give one, or leave the step prune out"
        )
    if target is not None and target.of == "latency_ms" and measure is None:
        raise UsageError("a latency to keep, and no way to measure", wanted="measure", do="give one")
    if not max_drop >= 0:
        raise UsageError(f"max_drop = {max_drop:g}", wanted="points of top-1, at least 0", do="correct max_drop")
