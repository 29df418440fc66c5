"""`mobilenets elastic`: one training for every width and resolution of a range."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .params import SETTING, typed_again
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
    from ..compress.elastic import ElasticOutcome

__all__ = ["command"]


@click.command(name="elastic", short_help="Train one set of weights for every width and resolution.")
@click.argument("data")
@click.option("--arch", required=True, metavar="MODEL", help="A name, the JSON file of a table, or a bundle.")
@click.option("--widths", default="0.25..1.0", show_default=True, metavar="W", help="A range, or some: 0.25,0.5,1.0.")
@click.option("--resolutions", metavar="R,R", help="Input sides in pixels.  [default: one, what suits the images]")
@RECIPE_OPTIONS
@click.option("--policy", "shares", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of the policy.")
@teacher_options("a bundle, timm:NAME or torchvision:NAME")
@TUNING_OPTIONS
@DEVICE
@run_options("elastic")
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
    teacher: str | None,
    temperature: float | None,
    teacher_weight: float | None,
    match: str | None,
    probe: bool,
    compiled: bool,
    device: str,
    out: Path | None,
    name: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train one set of weights that works at every width and resolution of a range.

    DATA is a folder with one folder of images per class (or with train/ and val/ of that kind), or a name: digits,
    cifar10. The widest network learns alone at first. Then each step trains it, the narrowest and one between; the
    narrower ones learn from what the widest says, more than from the labels.

    \b
    Every width from a quarter to the paper's, at three resolutions:
        mobilenets elastic cifar10 --arch mobilenet_v2 --widths 0.25..1.0 --resolutions 24,28,32 --epochs 40

    \b
    Some widths only, and less time for all together after the first half:
        mobilenets elastic flowers/ --arch mobilenet_v3_large --widths 0.5,0.75,1.0 --policy largest=0.7

    \b
    From a teacher, a network that knows the same classes; its answers then stand beside the labels for every width:
        mobilenets elastic cifar10 --arch mobilenet_v2 --teacher runs/train/mobilenet_v2_1.4-cifar10/best

    \b
    Then a plain network of any of them:
        mobilenets slice runs/elastic/mobilenet_v2-cifar10/best --alpha 0.6 --data cifar10

    \b
    On several processors or machines (batches are shared out, all draw the same widths, each measures a share):
        torchrun --nproc-per-node 2 -m mobilenets elastic cifar10 --arch mobilenet_v2 --batch-size 256

    Fields of the policy, with their defaults: alone=0.5 (part of the training, at its start, in which only the widest
    learns), largest=0.8 (share of the batch that it learns from after that), smallest=1.0, middle=0.8 (shares of those
    images that the narrowest and each width between learn from), between=1 (widths between in a step), distil=0.9
    (weight of the widest's answers against the labels), temperature=4.0 (that softens them) and own=true (each width of
    a list adds numbers of its own to the weights that all share).

    The folder runs/elastic/NAME then holds what `mobilenets train` leaves, and grid.csv, grid.json and front.png:
    accuracy on the validation images against mult-adds.
    """
    from ..compress.elastic import policy_for, train_elastic
    from ..runs import run_name
    from ..train import Tuning
    from ..train.elastic_policy import with_policy

    one_folder(out, name)
    followed = recipe_of(
        recipe,
        dict(settings),
        {"epochs": epochs, "seconds": seconds, "batch_size": batch_size, "lr": lr, "seed": seed},
    )
    policy = with_policy(policy_for(widths, _sides(resolutions)), dict(shares))
    asked = lesson_of(teacher, temperature=temperature, weight=teacher_weight, match=match)
    lesson = (None, None) if asked is None else (teacher_of(asked[0]), asked[1])
    start = started_from(arch)
    followed = for_weights(followed, start, name=recipe, settings=dict(settings), lr=lr)
    team, dataset = opened_by_all(context, data)
    label = name or run_name(start if isinstance(start, str) else start.spec.name, dataset.name)
    folder = folder_of_all(team, "elastic", label, out=out, resume=resume)
    again = typed_again(context)
    with kept_run(folder, again, sign="checkpoint.safetensors", what="the last checkpoint"):
        outcome = train_elastic(
            start,
            dataset,
            followed,
            policy,
            out=folder,
            teacher=lesson[0],
            how=lesson[1],
            device=device,
            resume="must" if resume else "never",
            keep_mirror="mirror" in dict(settings),
            command=again,
            tuning=Tuning(probe=probe, compile=compiled),
        )
    team.leave()
    if not team.leads:
        return
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
