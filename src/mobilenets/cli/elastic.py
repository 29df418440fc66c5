"""`mobilenets elastic`: one training for every width and resolution of a range."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .params import DURATION, SETTING, typed_again
from .training import go_on, recipe_of, started_from, unused

if TYPE_CHECKING:
    from ..compress.elastic import ElasticOutcome

__all__ = ["command"]


@click.command(name="elastic", short_help="Train one set of weights for every width and resolution.")
@click.argument("data")
@click.option("--arch", required=True, metavar="MODEL", help="A name, the JSON file of a table, or a bundle.")
@click.option("--widths", default="0.25..1.0", show_default=True, metavar="W", help="A range, or some: 0.25,0.5,1.0.")
@click.option("--resolutions", metavar="R,R", help="Input sides in pixels.  [default: one, what suits the images]")
@click.option("--epochs", type=float, metavar="E", help="Passes over the images.  [default: the recipe's, 30]")
@click.option("--time", "seconds", type=DURATION, metavar="T", help="Instead of --epochs: 90s, 25m, 1.5h, or seconds.")
@click.option("--batch-size", type=int, metavar="N", help="Images per step.  [default: the recipe's, 128]")
@click.option("--lr", type=float, help="Learning rate for a batch of 256; scaled with the batch.  [default: 0.4]")
@click.option("--seed", type=int, help="Of weights, order, augmentation and draws of widths.  [default: 0]")
@click.option("--recipe", metavar="R", help="v1, v2, v3, v4 (the papers'), short, or a file of YAML.  [default: short]")
@click.option("--set", "settings", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of the recipe.")
@click.option("--policy", "shares", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of the policy.")
@click.option("--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder, a new one.")
@click.option("--name", metavar="NAME", help="Its name below runs/elastic/.  [default: MODEL-DATA]")
@click.option("--resume", is_flag=True, help="Go on in the folder of -o, or in the newest run of that name.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    data: str,
    arch: str,
    widths: str,
    resolutions: str | None,
    epochs: float | None,
    seconds: float | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    recipe: str | None,
    settings: tuple[tuple[str, str], ...],
    shares: tuple[tuple[str, str], ...],
    device: str,
    out: Path | None,
    name: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train one set of weights that works at every width and resolution of a range.

    DATA is a folder with one folder of images per class (or with train/ and val/ of that kind), or a name: digits,
    cifar10. Each step trains the widest network, the narrowest and one between, each on a part of the batch; the
    narrower ones also learn from what the widest says.

    \b
    Every width from a quarter to the paper's, at three resolutions:
        mobilenets elastic cifar10 --arch mobilenet_v2 --widths 0.25..1.0 --resolutions 24,28,32 --epochs 40

    \b
    Some widths only, the widest on all images:
        mobilenets elastic flowers/ --arch mobilenet_v3_large --widths 0.5,0.75,1.0 --policy largest=1.0

    \b
    Then a plain network of any of them:
        mobilenets slice runs/elastic/mobilenet_v2-cifar10/best --alpha 0.6 --data cifar10

    Fields of the policy, with their defaults: largest=0.6, smallest=0.5, middle=0.5 (shares of the batch that the
    widest, the narrowest and each width between learn from), between=1 (widths between in a step), distil=1.0 (weight
    of the widest's answers against the labels, times how sure it is of the right classes).

    The folder runs/elastic/NAME then holds what `mobilenets train` leaves, and grid.csv, grid.json and front.png:
    accuracy on the validation images against mult-adds.
    """
    from ..compress.elastic import policy_for, train_elastic
    from ..data import open_dataset
    from ..runs import new_run_folder, newest_run_folder, run_name
    from ..train.elastic import with_policy

    if out is not None and name is not None:
        raise click.UsageError("-o and --name both name the folder; give one")
    followed = recipe_of(
        recipe,
        dict(settings),
        {"epochs": epochs, "seconds": seconds, "batch_size": batch_size, "lr": lr, "seed": seed},
    )
    policy = with_policy(policy_for(widths, _sides(resolutions)), dict(shares))
    start = started_from(arch)
    dataset = open_dataset(data)
    click.echo(dataset.summary.describe(), err=True)
    label = name or run_name(start if isinstance(start, str) else start.spec.name, dataset.name)
    if resume:
        folder = out or newest_run_folder("elastic", label)
    else:
        folder = unused(out) if out is not None else new_run_folder("elastic", label)
    again = typed_again(context)
    try:
        outcome = train_elastic(
            start,
            dataset,
            followed,
            policy,
            out=folder,
            device=device,
            resume="must" if resume else "never",
            keep_mirror="mirror" in dict(settings),
            command=again,
        )
    except BaseException as error:
        with contextlib.suppress(OSError):  # what never began leaves no empty folder behind
            folder.rmdir()
        if isinstance(error, KeyboardInterrupt) and (folder / "checkpoint.safetensors").is_file():
            click.echo(f"the last checkpoint is kept. To go on: {go_on(again, folder)}", err=True)
        raise
    if as_json:
        click.echo(json.dumps(_facts(outcome, folder), indent=2))
    _tell(outcome, folder, data=data, again=again, quiet=as_json)
    if not outcome.training.finished:
        context.exit(130)


def _sides(text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write pixels with commas", param_hint="--resolutions") from error


def _facts(outcome: ElasticOutcome, folder: Path) -> dict[str, Any]:
    from ..records import to_json

    training = outcome.training
    return {
        "run": str(folder),
        "best": str(folder / "best"),
        "last": str(folder / "last"),
        "finished": training.finished,
        "model": training.best.spec.name,
        "digest": training.best.digest,
        "top1": training.top1,
        "rows": [to_json(row) for row in training.rows],
        "grid": [to_json(point) for point in outcome.grid],
    }


def _tell(outcome: ElasticOutcome, folder: Path, *, data: str, again: str, quiet: bool) -> None:
    """The grid, where everything is, and what to type next; on standard error where JSON has the other."""
    training = outcome.training
    lines = []
    if outcome.grid:
        lines += ["alpha  pixels  mult-adds   top-1  (95 % interval)"]
        lines += [
            f"{p.alpha:5.3g}  {p.resolution:6}  {p.mult_adds / 1e6:7.2f} M  {p.top1:5.2f} %"
            f"  ({p.top1_low:.2f} to {p.top1_high:.2f} %)"
            for p in outcome.grid
        ]
    lines += [
        f"validation top-1 {100 * training.top1:.2f} % ({training.best.spec.name}, the widest)",
        f"  {folder / 'best'}  the weights of all widths, when the widest did best",
        f"  {folder / 'last'}  the weights at the end",
    ]
    if training.finished:
        lines.append(f"  {folder}  grid.csv, grid.json, front.png, results.csv, curves.png, args.yaml")
        words = ["mobilenets", "slice", str(folder / "best"), "--alpha", f"{outcome.grid[0].alpha:g}", "--data", data]
        lines.append(f"next: {shlex.join(words)}")
    else:
        lines.append(f"stopped; nothing is lost. To go on: {go_on(again, folder)}")
    for line in lines:
        click.echo(line, err=quiet)
