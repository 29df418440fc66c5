"""`mobilenets prune`: fewer channels, for a bound on what the network costs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .params import Amount, typed_again
from .pruning import BUDGET_OPTIONS, CHOICE_OPTIONS, THREADS, latencies, one_budget, target_of
from .training import (
    DEVICE,
    FINE_TUNE_LR,
    FINE_TUNING_OPTIONS,
    SELF,
    fine_tuning,
    go_on,
    kept_run,
    lesson_of,
    one_folder,
    run_folder,
    run_options,
    teacher_of,
    teacher_options,
)

if TYPE_CHECKING:
    from ..arch import ArchSpec
    from ..bundle import Bundle
    from ..compress import Allocation, Importance, Pruned

__all__ = ["command"]


@click.command(name="prune", short_help="Take the least important channels out of a network.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@BUDGET_OPTIONS
@CHOICE_OPTIONS
@click.option("--steps", type=int, metavar="N", help="Prune in so many steps, each followed by training.  [default: 1]")
@click.option("--epochs", type=float, metavar="E", help="Train so long behind each step.  [default: no training]")
@FINE_TUNING_OPTIONS
@teacher_options("self (the network before pruning), a bundle, timm:NAME or torchvision:NAME")
@THREADS
@DEVICE
@run_options("prune")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    data: str | None,
    mult_adds: Amount | None,
    parameters: Amount | None,
    size_mb: Amount | None,
    latency_ms: Amount | None,
    importance: Importance | None,
    allocation: Allocation,
    divisor: int,
    minimum: int,
    least_share: float,
    steps: int | None,
    epochs: float | None,
    recipe: str | None,
    lr: float | None,
    settings: tuple[tuple[str, str], ...],
    teacher: str | None,
    temperature: float | None,
    teacher_weight: float | None,
    match: str | None,
    threads: int | None,
    device: str,
    out: Path | None,
    name: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Take the least important channels out of a network, until it costs no more than asked.

    BUNDLE is a folder that `mobilenets train` or `mobilenets import` wrote. DATA are the images it was trained on: with
    them channels are ranked by what the loss would lose, norms fit the narrower network, and --epochs trains it.
    Without them the weights alone decide, and the accuracy is to be restored by training. Sizes and latencies are those
    of float32.

    \b
    To half of the mult-adds, in one step, then twelve epochs of training:
        mobilenets prune runs/train/mobilenet_v2-flowers/best flowers/ --mult-adds 0.5x --epochs 12

    \b
    The same, learning from what the whole network said of each image:
        mobilenets prune runs/train/mobilenet_v2-flowers/best flowers/ --mult-adds 0.5x --epochs 12 --teacher self

    \b
    Gradually, to what this machine computes in 2.5 ms:
        mobilenets prune runs/train/mobilenet_v2-flowers/best flowers/ --latency-ms 2.5 --steps 4 --epochs 6

    \b
    Without images, then trained like any other bundle:
        mobilenets prune v2 --parameters 1.5M -o v2-pruned
        mobilenets train v2-pruned/best flowers/ --epochs 12 --lr 0.1

    The result is the bundle runs/prune/NAME/best. Once stopped (Ctrl-C keeps everything), the same command with
    --resume goes on.
    """
    from ..bundle import read_bundle
    from ..compress import Limits, prune, prune_run
    from ..data import open_dataset
    from ..runs import run_name

    target = target_of(mult_adds=mult_adds, parameters=parameters, size_mb=size_mb, latency_ms=latency_ms)
    if target is None:
        raise click.UsageError(f"{one_budget()}: what may the result cost?")
    limits = Limits(divisor=divisor, minimum=minimum, least_share=least_share)
    one_folder(out, name)
    if threads is not None and target.of != "latency_ms":
        raise click.UsageError("--threads is for --latency-ms; nothing else is measured")
    asked = lesson_of(teacher, temperature=temperature, weight=teacher_weight, match=match)
    if epochs is None and (recipe is not None or settings or lr is not None or asked is not None):
        raise click.UsageError("--recipe, --lr, --set and --teacher are about training; give --epochs as well")
    followed = None if epochs is None else fine_tuning(recipe, dict(settings), epochs=epochs, lr=lr)
    if data is None and (steps is not None or followed is not None or resume or importance == "taylor"):
        raise click.UsageError("--steps, --epochs, --resume and --importance taylor need images; give DATA")
    read = read_bundle(bundle)
    whose = None if asked is None else read if asked[0] == SELF else teacher_of(asked[0])
    measure = latencies(threads=threads) if target.of == "latency_ms" else None
    dataset = None if data is None else open_dataset(data)
    label = name or run_name(read.spec.name, "pruned" if dataset is None else dataset.name)
    folder = run_folder("prune", label, out=out, resume=resume)
    again = typed_again(context)
    with kept_run(folder, again, sign="prune.json", what="what was done"):
        if dataset is None:
            made = prune(
                read, target, importance=importance or "l2", allocation=allocation, limits=limits, measure=measure
            )
            made.write(folder / "best")
            outcome = None
        else:
            outcome = prune_run(
                read,
                dataset,
                target,
                out=folder,
                recipe=followed,
                steps=steps or 1,
                importance=importance or "taylor",
                allocation=allocation,
                limits=limits,
                measure=measure,
                teacher=whose,
                distillation=None if asked is None else asked[1],
                device=device,
                resume=resume,
                keep_mirror="mirror" in dict(settings),
                command=again,
            )
            made = outcome.best
    if outcome is not None and not outcome.finished:
        if as_json:
            click.echo(json.dumps({"run": str(folder), "finished": False}, indent=2))
        click.echo(f"stopped; nothing is lost. To go on: {go_on(again, folder)}", err=as_json)
        context.exit(130)
    if as_json:
        click.echo(json.dumps(_facts(read, made, outcome, folder), indent=2))
    else:
        for line in _told(read, made, outcome, folder, data=data, trained=followed is not None):
            click.echo(line)


def _facts(before: Bundle, after: Bundle, outcome: Pruned | None, folder: Path) -> dict[str, Any]:
    from ..compress import costs_of, widths
    from ..records import to_json

    pairs = zip(widths(before.spec), widths(after.spec), strict=True)
    return {
        "run": str(folder),
        "best": str(folder / "best"),
        "finished": True,
        "model": after.spec.name,
        "digest": after.digest,
        "parent": before.digest,
        "before": {**costs_of(before.spec), "top1": None if outcome is None else outcome.top1},
        "after": {**costs_of(after.spec), "top1": None if outcome is None else _top1(outcome)},
        "latency_ms": _latency(before, after),
        "widths": [{"name": one.name, "before": one.size, "after": other.size} for one, other in pairs],
        "steps": [] if outcome is None else [to_json(step) for step in outcome.steps],
    }


def _told(
    before: Bundle, after: Bundle, outcome: Pruned | None, folder: Path, *, data: str | None, trained: bool
) -> list[str]:
    """Row by row what became of the widths, what it costs, how often it is right, and what to type next."""
    from ..compress import costs_of

    lines = _rows(before.spec, after.spec)
    old, new = costs_of(before.spec), costs_of(after.spec)
    for of, unit, by in (("mult_adds", "M", 1e6), ("parameters", "M", 1e6), ("size_mb", "MB", 1.0)):
        share = new[of] / old[of]  # type: ignore[index]  # three names of budgets
        lines.append(f"{of}: {old[of] / by:.3f} {unit} -> {new[of] / by:.3f} {unit} ({share:.3f}x)")  # type: ignore[index]
    if measured := _latency(before, after):
        lines.append(f"latency: {measured['before']:.3f} ms -> {measured['after']:.3f} ms, measured here")
    if outcome is not None:
        for number, step in enumerate(outcome.steps, start=1):
            then = "" if step.trained_top1 is None else f", trained {100 * step.trained_top1:.2f} %"
            lines.append(f"step {number}: {step.mult_adds / 1e6:.3f} M, top-1 {100 * step.top1:.2f} %{then}")
        lines.append(f"validation top-1: {100 * outcome.top1:.2f} % -> {100 * _top1(outcome):.2f} %")
    best = str(folder / "best")
    lines.append(f"  {best}  the pruned network")
    if trained:
        lines.append(f"next: {shlex.join(['mobilenets', 'export', best, '--data', data or 'DATA'])}")
    else:
        lines.append("it was not trained since: its accuracy must be restored by training")
        words = ["mobilenets", "train", best, data or "DATA", "--epochs", "12", "--lr", str(FINE_TUNE_LR)]
        lines.append(f"next: {shlex.join(words)}")
    return lines


def _rows(before: ArchSpec, after: ArchSpec) -> list[str]:
    """A table: each row with the widths it had and has."""

    def change(old: int, new: int) -> str:
        return str(old) if old == new else f"{old} -> {new}"

    lines = [f"{'row':<5}{'type':<12}{'out':<14}inside"]
    for index, (old, new) in enumerate(zip(before.rows, after.rows, strict=True)):
        inside = [
            f"{field} {change(getattr(old, field), getattr(new, field))}"
            for field in ("expanded", "squeezed", "heads", "value_width")
            if field in old.__struct_fields__ and getattr(old, field) is not None
        ]
        kind = str(old.__struct_config__.tag)
        lines.append(f"{index:<5}{kind:<12}{change(old.out, new.out):<14}{', '.join(inside)}".rstrip())
    if before.head.hidden is not None and after.head.hidden is not None:
        lines.append(f"{'head':<17}{'':<14}hidden {change(before.head.hidden, after.head.hidden)}")
    return lines


def _top1(outcome: Pruned) -> float:
    last = outcome.steps[-1]
    return last.top1 if last.trained_top1 is None else last.trained_top1


def _latency(before: Bundle, after: Bundle) -> dict[str, float] | None:
    """What was measured of the whole network and of the last cut."""
    steps = [entry for entry in after.history[len(before.history) :] if "latency_ms" in entry]
    if not steps:
        return None
    return {"before": steps[0]["latency_ms"]["before"], "after": steps[-1]["latency_ms"]["after"]}
