"""`mobilenets compress`: smaller and faster step by step, with an account of what each step brought and cost."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .params import Amount, typed_again
from .pruning import BUDGET_OPTIONS, CHOICE_OPTIONS, THREADS, latencies, one_budget, target_of
from .training import (
    DEVICE,
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
    from ..bundle import Bundle
    from ..compress import Allocation, Importance
    from ..ledger import Ledger

__all__ = ["command"]


@click.command(name="compress", short_help="Distil, prune, quantise: keep what pays, account for all.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data")
@BUDGET_OPTIONS
@click.option("--max-drop", type=float, default=1.0, show_default=True, metavar="P", help="Points of top-1 to lose.")
@click.option(
    "--steps",
    default="distil,prune,quantise,qat,weights",
    show_default=True,
    metavar="S,S",
    help="Which, in that order.",
)
@click.option("--cuts", type=int, default=1, show_default=True, metavar="N", help="Prune in so many, each trained.")
@CHOICE_OPTIONS
@click.option("--epochs", type=float, default=12.0, show_default=True, metavar="E", help="Of each training.")
@click.option(
    "--qat", type=float, metavar="E", help="Epochs of qat, tried in any case.  [default: --epochs, if int8 loses]"
)
@FINE_TUNING_OPTIONS
@teacher_options("a bundle, timm:NAME or torchvision:NAME; or self, as it was before the step")
@THREADS
@DEVICE
@run_options("compress")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    data: str,
    mult_adds: Amount | None,
    parameters: Amount | None,
    size_mb: Amount | None,
    latency_ms: Amount | None,
    max_drop: float,
    steps: str,
    cuts: int,
    importance: Importance | None,
    allocation: Allocation,
    divisor: int,
    minimum: int,
    least_share: float,
    epochs: float,
    qat: float | None,
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
    """Make a network smaller and faster in steps, and account for what each step brought and cost.

    BUNDLE is a folder that `mobilenets train` or `mobilenets import` wrote, DATA the images it was trained on. The
    steps: distil (train on with a --teacher), prune (cut to the bound, then train), quantise (int8), qat (where int8
    was taken back for its answers: train through its roundings, then int8 again), weights (where int8 does not stand
    even so: weights as bytes, answers in float32). Behind each, the network is exported through the gate, judged on the
    validation images, and timed in turn with the file it began with. A step that leaves more than --max-drop points
    below the start, or is neither faster nor smaller (distil: not more accurate), is taken back, and the next one
    starts from what stood before it.

    \b
    To half of the mult-adds, then int8:
        mobilenets compress runs/train/mobilenet_v2-flowers/best flowers/ --mult-adds 0.5x

    \b
    With a teacher, to a latency, at most half a point worse:
        mobilenets compress v3 flowers/ --latency-ms 1.2 --max-drop 0.5 --teacher runs/train/mobilenet_v2-flowers/best

    \b
    Prune only as far as int8 leaves it necessary:
        mobilenets compress v3 flowers/ --latency-ms 1.2 --steps quantise,prune

    \b
    Train for int8 in any case, and keep what is more often right (without quantise in --steps: that alone):
        mobilenets compress v3 flowers/ --mult-adds 0.5x --qat 5

    \b
    Once stopped (Ctrl-C keeps everything), the same command goes on:
        mobilenets compress v3 flowers/ --latency-ms 1.2 --resume

    The bound is what pruning cuts to, in the precision that stands then; what is handed out is held against it, and the
    exit code is 1 if it does not keep it. The folder runs/compress/NAME then holds best/ (a bundle), artifact/,
    ledger.md (the table) and ledger.json.
    """
    from ..bundle import read_bundle
    from ..compress import Limits
    from ..data import open_dataset
    from ..ledger import Pruning, compress
    from ..runs import run_name

    one_folder(out, name)
    chosen = tuple(word.strip() for word in steps.split(",") if word.strip())
    target = target_of(mult_adds=mult_adds, parameters=parameters, size_mb=size_mb, latency_ms=latency_ms)
    if target is None and "prune" in chosen:
        raise click.UsageError(f"{one_budget()}, or leave prune out of --steps")
    followed = fine_tuning(recipe, dict(settings), epochs=epochs, lr=lr)
    asked = lesson_of(teacher, temperature=temperature, weight=teacher_weight, match=match)
    limits = Limits(divisor=divisor, minimum=minimum, least_share=least_share)
    read = read_bundle(bundle)
    whose: Bundle | Literal["self"] | None = None
    if asked is not None:
        whose = "self" if asked[0] == SELF else teacher_of(asked[0])
    dataset = open_dataset(data)
    click.echo(dataset.summary.describe(), err=True)
    folder = run_folder("compress", name or run_name(read.spec.name, dataset.name), out=out, resume=resume)
    again = typed_again(context)
    with kept_run(folder, again, sign="ledger.json", what="what was done"):
        ledger = compress(
            read,
            dataset,
            out=folder,
            recipe=followed,
            steps=chosen,
            target=target,
            max_drop=max_drop,
            teacher=whose,
            distillation=None if asked is None else asked[1],
            qat=qat,
            pruning=Pruning(cuts=cuts, importance=importance or "taylor", allocation=allocation, limits=limits),
            measure=lambda precision: latencies(precision, threads=threads),
            threads=threads,
            device=device,
            resume=resume,
            keep_mirror="mirror" in dict(settings),
            command=again,
        )
    if as_json:
        click.echo(json.dumps(_facts(ledger, folder), indent=2, ensure_ascii=False))
    for line in _told(ledger, folder, again=again):
        click.echo(line, err=as_json)
    if not ledger.finished:
        context.exit(130)
    if ledger.over is not None:
        context.exit(1)


def _facts(ledger: Ledger, folder: Path) -> dict[str, Any]:
    from ..records import to_json

    return {
        "run": str(folder),
        "best": str(folder / "best") if ledger.finished else None,
        "artifact": str(folder / "artifact") if ledger.finished else None,
        "standing": ledger.standing() if ledger.lines else None,  # index of the line that is handed out
        **to_json(ledger),
    }


def _told(ledger: Ledger, folder: Path, *, again: str) -> list[str]:
    """The table, where everything is, and what to type next."""
    from ..ledger import to_markdown

    lines = to_markdown(ledger).splitlines()
    if not ledger.finished:
        return [*lines, "", f"stopped; nothing is lost. To go on: {go_on(again, folder)}"]
    first = ledger.lines[0].measured
    assert first is not None
    words = ["mobilenets", "bench", str(folder / "artifact"), str(folder / first.artifact)]
    return [
        *lines,
        "",
        f"  {folder / 'best'}  the bundle that stands",
        f"  {folder / 'artifact'}  its file, which passed the gate",
        f"  {folder}  ledger.md, ledger.json",
        f"next: {shlex.join(words)}",
    ]
