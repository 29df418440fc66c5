"""`mobilenets prune`: fewer channels, for a bound on what the network costs."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .params import AMOUNT, SETTING, Amount, typed_again
from .training import go_on, unused

if TYPE_CHECKING:
    from ..arch import ArchSpec
    from ..bundle import Bundle
    from ..compress import Allocation, Importance, Measure, Pruned, Target
    from ..train import Recipe

__all__ = ["command"]

IMPORTANCES = ("l1", "l2", "norm", "taylor")
ALLOCATIONS = ("global", "uniform")
BUDGETS = ("mult_adds", "parameters", "size_mb", "latency_ms")
FINE_TUNE_LR = 0.1  # for a batch of 256: a quarter of what begins from nothing


@click.command(name="prune", short_help="Take the least important channels out of a network.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option("--mult-adds", type=AMOUNT, metavar="N", help="The result has at most so many: 0.5x, 150M.")
@click.option("--parameters", type=AMOUNT, metavar="N", help="Instead: at most so many trained numbers: 0.5x, 1.5M.")
@click.option("--size-mb", type=AMOUNT, metavar="N", help="Instead: at most so many 10^6 bytes of float32: 0.5x, 4.")
@click.option("--latency-ms", type=AMOUNT, metavar="N", help="Instead: measured here, float32 on ONNX: 0.6x, 2.5.")
@click.option("--importance", type=click.Choice(IMPORTANCES), help="[default: taylor; l2 without DATA]")
@click.option("--allocation", type=click.Choice(ALLOCATIONS), default="global", show_default=True)
@click.option("--steps", type=int, metavar="N", help="Prune in so many steps, each followed by training.  [default: 1]")
@click.option("--epochs", type=float, metavar="E", help="Train so long behind each step.  [default: no training]")
@click.option("--recipe", metavar="R", help="v1, v2, v3, v4, short, or a file of YAML.  [default: short]")
@click.option("--lr", type=float, help=f"Learning rate for a batch of 256.  [default: the recipe's; {FINE_TUNE_LR}]")
@click.option("--set", "settings", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of the recipe.")
@click.option("--divisor", default=8, show_default=True, metavar="N", help="Widths become multiples of this.")
@click.option("--minimum", default=8, show_default=True, metavar="N", help="No width falls below this.")
@click.option("--least-share", default=0.1, show_default=True, metavar="S", help="Of each width, this much stays.")
@click.option("--threads", type=int, metavar="N", help="For --latency-ms.  [default: the cores, at most 4]")
@click.option("--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder, a new one.")
@click.option("--name", metavar="NAME", help="Its name below runs/prune/.  [default: MODEL-DATA]")
@click.option("--resume", is_flag=True, help="Go on in the folder of -o, or in the newest run of that name.")
@click.option("--json", "as_json", is_flag=True, help="What came out as one JSON object.")
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
    steps: int | None,
    epochs: float | None,
    recipe: str | None,
    lr: float | None,
    settings: tuple[tuple[str, str], ...],
    divisor: int,
    minimum: int,
    least_share: float,
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
    Without them the weights alone decide, and the accuracy is to be restored by training.

    \b
    To half of the mult-adds, in one step, then twelve epochs of training:
        mobilenets prune runs/train/mobilenet_v2-flowers/best flowers/ --mult-adds 0.5x --epochs 12

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
    from ..runs import new_run_folder, newest_run_folder, run_name

    target = _target(dict(zip(BUDGETS, (mult_adds, parameters, size_mb, latency_ms), strict=True)))
    limits = Limits(divisor=divisor, minimum=minimum, least_share=least_share)
    if out is not None and name is not None:
        raise click.UsageError("-o and --name both name the folder; give one")
    if threads is not None and target.of != "latency_ms":
        raise click.UsageError("--threads is for --latency-ms; nothing else is measured")
    followed = _recipe(recipe, dict(settings), epochs=epochs, lr=lr)
    if data is None and (steps is not None or followed is not None or resume or importance == "taylor"):
        raise click.UsageError("--steps, --epochs, --resume and --importance taylor need images; give DATA")
    read = read_bundle(bundle)
    measure = _measure(threads) if target.of == "latency_ms" else None
    dataset = None if data is None else open_dataset(data)
    label = name or run_name(read.spec.name, "pruned" if dataset is None else dataset.name)
    if resume:
        folder = out or newest_run_folder("prune", label)
    else:
        folder = unused(out) if out is not None else new_run_folder("prune", label)
    again = typed_again(context)
    try:
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
                device=device,
                resume=resume,
                keep_mirror="mirror" in dict(settings),
                command=again,
            )
            made = outcome.best
    except BaseException as error:
        with contextlib.suppress(OSError):  # what never began leaves no empty folder behind
            folder.rmdir()
        if isinstance(error, KeyboardInterrupt) and (folder / "prune.json").is_file():
            click.echo(f"what was done is kept. To go on: {go_on(again, folder)}", err=True)
        raise
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


def _target(given: dict[str, Amount | None]) -> Target:
    from ..compress import Target

    asked = [(of, amount) for of, amount in given.items() if amount is not None]
    if len(asked) != 1:
        words = ", ".join(f"--{of.replace('_', '-')}" for of in given)
        raise click.UsageError(f"give one of {words}: what may the result cost?")
    ((of, amount),) = asked
    return Target(of=of, most=amount.number, relative=amount.relative)  # type: ignore[arg-type]  # of BUDGETS


def _recipe(name: str | None, settings: dict[str, str], *, epochs: float | None, lr: float | None) -> Recipe | None:
    """The recipe of the training behind each step; None where there is none."""
    from ..train import RECIPES, named_recipe, read_recipe, with_settings

    if epochs is None:
        if name is not None or settings or lr is not None:
            raise click.UsageError("--recipe, --lr and --set are about training; give --epochs as well")
        return None
    if twice := sorted(settings.keys() & {"epochs", *(("lr",) if lr is not None else ())}):
        raise click.UsageError(f"--set {twice[0]} repeats an option; give one of them")
    begun = (
        named_recipe("short") if name is None else named_recipe(name) if name in RECIPES else read_recipe(Path(name))
    )
    rate = FINE_TUNE_LR if lr is None and name is None and "lr" not in settings else lr
    return with_settings(begun, {**settings, "epochs": epochs, **({} if rate is None else {"lr": rate})})


def _measure(threads: int | None) -> Measure:
    """Milliseconds that a table's network takes here for one image, at the pessimistic end, as `fit` measures."""
    from ..arch import cost
    from ..fit.candidates import Option
    from ..fit.latency import LatencyTable

    table = LatencyTable(threads=threads)

    def measured(spec: ArchSpec) -> float:
        option = Option(spec=spec, family=spec.name, alpha=1.0, precision="fp32", cost=cost(spec), promise=0.0)
        return table.confirm(option).high_ms

    return measured


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
