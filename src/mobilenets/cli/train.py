"""`mobilenets train`: a network, labelled images, and some time."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .params import typed_again
from .team import folder_of_all, opened_by_all
from .training import (
    DEVICE,
    RECIPE_OPTIONS,
    TUNING_OPTIONS,
    for_weights,
    go_on,
    kept_run,
    lesson_of,
    one_folder,
    recipe_of,
    run_options,
    started_from,
    teacher_of,
    teacher_options,
)

if TYPE_CHECKING:
    from ..train import Outcome

__all__ = ["command"]

LEFT: Final = ("results.csv", "classes.csv", "curves.png", "confusion.png", "samples.png", "args.yaml")


@click.command(name="train", short_help="Train a network on labelled images.")
@click.argument("model")
@click.argument("data")
@RECIPE_OPTIONS
@click.option("--resolution", type=int, metavar="R", help="Input side in pixels.  [default: what suits the images]")
@click.option("--alpha", type=float, metavar="A", help="Width multiplier, such as 0.5.  [default: the name's]")
@click.option(
    "--freeze", metavar="F", help="Rows that keep their weights: backbone, N stages from the stem, or rows:N."
)
@teacher_options("a bundle, timm:NAME or torchvision:NAME")
@TUNING_OPTIONS
@DEVICE
@run_options("train")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    data: str,
    epochs: float | None,
    seconds: float | None,
    resolution: int | None,
    alpha: float | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    recipe: str | None,
    freeze: str | None,
    teacher: str | None,
    temperature: float | None,
    teacher_weight: float | None,
    match: str | None,
    settings: tuple[tuple[str, str], ...],
    probe: bool,
    compiled: bool,
    device: str,
    out: Path | None,
    name: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a network on labelled images.

    MODEL is a name (see: mobilenets models), the JSON file of a table, or the folder of a bundle, whose weights it then
    starts from. DATA is a folder with one folder of images per class (or with train/ and val/ of that kind), or a name:
    digits, cifar10; or, for images with any number of labels, a table: a .csv, or a folder with labels.csv, with a
    column `file`, a column of 1, 0 or nothing (not known) for each label, and perhaps a column `split`.

    \b
    For some time, or for some passes over the images:
        mobilenets train mobilenet_v2 flowers/ --time 20m
        mobilenets train mobilenet_v3_small_0.75_160 flowers/ --epochs 60

    \b
    With a recipe, one field changed:
        mobilenets train mobilenet_v3_small flowers/ --recipe v3 --epochs 100
        mobilenets train mobilenet_v1 cifar10 --recipe mine.yaml --set cutout=0.25

    \b
    From weights that know something, the classifier alone or all of it with lower rates near the stem:
        mobilenets train runs/train/mobilenet_v2-cifar10/best flowers/ --freeze backbone --time 2m
        mobilenets train imported/ flowers/ --lr 0.05 --set layer_decay=0.8

    \b
    From a teacher, a network that knows the same classes or labels:
        mobilenets train mobilenet_v2_0.35 flowers/ --teacher runs/train/mobilenet_v2-flowers/best --temperature 4

    \b
    From the embedding of a network that knows other classes (what its classifier reads, compared by angle):
        mobilenets train mobilenet_v2_0.35 flowers/ --teacher timm:mobilenetv3_large_100 --teacher-weight 0 \\
            --match embedding

    \b
    As fast as this machine can; what was found is kept with the run, and --resume goes on with it:
        mobilenets train mobilenet_v2 flowers/ --epochs 60 --probe --compile

    \b
    Once stopped (Ctrl-C keeps everything), the same command goes on:
        mobilenets train mobilenet_v2 flowers/ --time 20m --resume

    \b
    Images with any number of labels (red, square ...) in photos/labels.csv; mean average precision is the goal:
        mobilenets train mobilenet_v3_small photos/ --time 20m

    \b
    On several processors or machines (batches are shared out, results are as from one):
        torchrun --nproc-per-node 2 -m mobilenets train mobilenet_v2 flowers/ --batch-size 256

    The folder runs/train/NAME then holds best/ and last/ (bundles), results.csv, classes.csv, curves.png,
    confusion.png (not of a table), samples.png and args.yaml.
    """
    from ..runs import run_name
    from ..train import CrossEntropy, Tuning, check_teacher, distil
    from ..train.run import train_run

    one_folder(out, name)
    followed = recipe_of(
        recipe,
        dict(settings),
        {"epochs": epochs, "seconds": seconds, "batch_size": batch_size, "lr": lr, "seed": seed, "freeze": freeze},
    )
    asked = lesson_of(teacher, temperature=temperature, weight=teacher_weight, match=match)
    lesson = None if asked is None else (teacher_of(asked[0]), asked[1])
    start = started_from(model)
    followed = for_weights(followed, start, name=recipe, settings=dict(settings), lr=lr)
    team, dataset = opened_by_all(context, data)
    if lesson is not None:
        check_teacher(lesson[0], dataset.labels, lesson[1], task=dataset.task)
    label = name or run_name(start if isinstance(start, str) else start.spec.name, dataset.name)
    folder = folder_of_all(team, "train", label, out=out, resume=resume)
    again = typed_again(context)
    with kept_run(folder, again, sign="checkpoint.safetensors", what="the last checkpoint"):
        outcome = train_run(
            start,
            dataset,
            followed,
            out=folder,
            alpha=alpha,
            resolution=resolution,
            device=device,
            resume="must" if resume else "never",
            keep_mirror="mirror" in dict(settings),
            command=again,
            tuning=Tuning(probe=probe, compile=compiled),
            objective=CrossEntropy if lesson is None else distil(*lesson),
        )
    team.leave()
    if not team.leads:
        return
    if as_json:
        click.echo(json.dumps(_facts(outcome, folder), indent=2))
    _tell(outcome, folder, data=data, again=again, quiet=as_json)
    if not outcome.finished:
        context.exit(130)


def _facts(outcome: Outcome, folder: Path) -> dict[str, Any]:
    from ..records import to_json

    return {
        "run": str(folder),
        "best": str(folder / "best"),
        "last": str(folder / "last"),
        "finished": outcome.finished,
        "model": outcome.best.spec.name,
        "digest": outcome.best.digest,
        **({"top1": outcome.top1} if outcome.best.task == "classify" else {"map": outcome.goal}),
        "rows": [to_json(row) for row in outcome.rows],
    }


def _tell(outcome: Outcome, folder: Path, *, data: str, again: str, quiet: bool) -> None:
    """What came out, where it is, and what to type next; on standard error where JSON has the other."""
    lines = [
        f"validation {outcome.rows[-1].goal_name} {100 * outcome.goal:.2f} % ({outcome.best.spec.name})",
        f"  {folder / 'best'}  the weights that did best",
        f"  {folder / 'last'}  the weights at the end",
        f"  {folder}  {', '.join(name for name in LEFT if (folder / name).is_file())}",
    ]
    if outcome.finished:
        lines.append(f"next: {shlex.join(['mobilenets', 'export', str(folder / 'best'), '--data', data])}")
    else:
        lines.append(f"stopped; nothing is lost. To go on: {go_on(again, folder)}")
    for line in lines:
        click.echo(line, err=quiet)
