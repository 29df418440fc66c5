"""`mobilenets fit`: labelled images and a budget in, a model that keeps it out, with proof."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .params import DURATION

if TYPE_CHECKING:
    from ..data import Dataset
    from ..fit import Budget

__all__ = ["command"]

WORDS = (("none",), ("published",))  # of --weights that are no file and no name


def _words(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(word.strip() for word in value.split(",") if word.strip())


@click.command("fit", short_help="The best MobileNet for your images within a budget.")
@click.argument("data")
@click.option("--latency-ms", type=float, help="At most this long for one image, measured on this machine.")
@click.option("--size-mb", type=float, help="Model file at most this large (10^6 bytes).")
@click.option("--mult-adds-m", type=float, help="At most so many million multiply-adds for one image.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of the engine that will serve. [default: all cores, at most 4]"
)
@click.option(
    "--time", "seconds", type=DURATION, default="30m", show_default=True, help="For everything: 90s, 25m, 1.5h."
)
@click.option(
    "--families",
    callback=_words,
    help="Comma-separated names of `mobilenets models`. [default: V1, V2, V3; of V4 Conv-S, fused for thumbnails]",
)
@click.option("--alphas", callback=_words, help="Width multipliers. [default: 0.25,0.35,0.5,0.75,1.0,1.3]")
@click.option("--resolutions", callback=_words, help="Input sides in pixels. [default: what suits the images]")
@click.option(
    "--precisions", callback=_words, help="That compete: fp32, int8. [default: fp32; int8 is made at the end]"
)
@click.option("--elastic", is_flag=True, help="Train the widths and resolutions of one family at once, not one by one.")
@click.option(
    "--weights",
    callback=_words,
    metavar="W,W",
    help="That networks begin from: none, published, or files and names. [default: published, for photos]",
)
@click.option(
    "--kit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="For another device: only write all networks there, to be timed on it.",
)
@click.option(
    "--latencies",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What they take there, as `bench --kit` left it: latencies.json.",
)
@click.option("--recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="How to train, as YAML.")
@click.option("--device", default="auto", show_default=True, help="To train on: auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. [default: runs/fit/DATA]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    data: str,
    latency_ms: float | None,
    size_mb: float | None,
    mult_adds_m: float | None,
    threads: int | None,
    seconds: float,
    families: tuple[str, ...] | None,
    alphas: tuple[str, ...] | None,
    resolutions: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    elastic: bool,
    weights: tuple[str, ...] | None,
    kit: Path | None,
    latencies: Path | None,
    recipe: Path | None,
    device: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find, train and export the best MobileNet that keeps a budget on this machine.

    DATA is a folder with one folder of images per class (or train/ and test/ with such folders), or `digits` or
    `cifar10`. At least one of --latency-ms, --size-mb and --mult-adds-m is needed.

    \b
    Examples:
      mobilenets fit digits --latency-ms 0.5 --time 5m
      mobilenets fit photos/ --latency-ms 10 --threads 2 --time 2h -o fitted
      mobilenets fit photos/ --size-mb 1 --precisions fp32,int8
      mobilenets fit photos/ --mult-adds-m 50 --families mobilenet_v2,mobilenet_v3_small
      mobilenets fit photos/ --latency-ms 10 --families mobilenet_v2 --elastic
      mobilenets fit photos/ --latency-ms 10 --weights mobilenet_v2_1.0_224_quant.tflite,timm:mobilenetv3_small_100

    \b
    For a board that trains nothing, time the networks on it first:
      mobilenets fit photos/ --latency-ms 30 --kit kit/         # here; then copy kit/ to the board
      mobilenets bench --kit kit/ --threads 4                   # there; then copy kit/latencies.json back
      mobilenets fit photos/ --latency-ms 30 --latencies latencies.json

    Networks are timed before any is trained, and those that keep the budget are trained by successive halving; with
    --elastic, those at the edge of the budget in one family are trained at once, as one set of weights. Photos are
    learned from weights that know ImageNet already, where the Hugging Face hub or its cache has them, or from your own
    (--weights): bundles, checkpoints and names as `mobilenets import` takes them. The winner is
    exported, compared with its network on real images, timed again and judged on held-out images. The folder then holds
    report.html, report.json, one artifact per precision, and the bundle.

    Interrupted at any moment, the same command goes on where it was.
    """
    from ..data import open_dataset
    from ..fit import Budget, DeviceTable, fit, summary_text
    from ..records import to_json
    from ..runtime import default_threads
    from ..train import Recipe, read_recipe, with_settings

    if kit is not None and latencies is not None:
        raise click.UsageError("--kit writes what is to be timed, --latencies reads what it took; give one")
    if latencies is not None and latency_ms is None:
        raise click.UsageError("--latencies is about --latency-ms; give that, too")
    table = None if latencies is None else DeviceTable(latencies)
    if table is not None and threads not in (None, table.told.threads):
        raise click.UsageError(f"--threads {threads}, and {latencies} was measured with {table.told.threads}")
    threads = threads or (table.told.threads if table is not None else default_threads())
    budget = Budget(latency_ms=latency_ms, size_mb=size_mb, mult_adds_m=mult_adds_m, threads=threads)
    begun = with_settings(
        read_recipe(recipe) if recipe else Recipe(seconds=seconds), {"seed": seed, "seconds": seconds}
    )
    dataset = open_dataset(data)  # splits do not move with the seed: `val` must find the images that taught nobody
    click.echo(dataset.summary.describe(), err=True)
    folder = out or Path("runs") / "fit" / dataset.name
    choices: dict[str, object] = {}
    if families is not None:
        choices["families"] = families
    if alphas is not None:
        choices["alphas"] = _numbers("--alphas", alphas)
    if resolutions is not None:
        choices["resolutions"] = tuple(int(number) for number in _numbers("--resolutions", resolutions))
    if precisions is not None:
        choices["precisions"] = _precisions(precisions)
    choices["weights"] = "auto" if weights is None else weights[0] if weights in WORDS else weights
    if kit is not None:
        _write_kit(dataset, budget, kit, choices)
        return
    if table is not None:
        choices["latencies"] = table
    report = fit(
        dataset,
        budget,
        out=folder,
        seconds=seconds,
        recipe=begun,
        device=device,
        command=shlex.join(["mobilenets", *sys.argv[1:]]),
        elastic=elastic,
        **choices,  # type: ignore[arg-type]  # each is checked above
    )
    click.echo(json.dumps(to_json(report), indent=2) if as_json else summary_text(report, folder=folder), nl=as_json)


def _write_kit(dataset: Dataset, budget: Budget, folder: Path, choices: dict[str, object]) -> None:
    from ..fit import write_kit

    asked = {name: choices[name] for name in ("families", "alphas", "resolutions", "weights") if name in choices}
    count = write_kit(dataset, budget, folder=folder, **asked)  # type: ignore[arg-type]  # each is checked above
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    click.echo(f"{folder}: {count} networks to be timed, {size:.0f} MB")
    click.echo(f"on the device: mobilenets bench --kit {shlex.quote(folder.name)}")
    click.echo(
        "then here, with the latencies.json that it leaves in there: this command with --latencies FILE for --kit"
    )


def _numbers(option: str, words: tuple[str, ...]) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise click.BadParameter(f"{','.join(words)}: write numbers with commas", param_hint=option) from error


def _precisions(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word not in ("fp32", "int8"):
            raise click.BadParameter(f"{word!r} is neither fp32 nor int8", param_hint="--precisions")
    return words
