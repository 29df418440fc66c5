"""`mobilenets val`: how often is this model right?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .engines import ENGINE_HELP, engine_for

if TYPE_CHECKING:
    from ..data import Dataset, SplitName
    from ..runtime.validate import LabelValidation, Validation

__all__ = ["command"]


@click.command(name="val", short_help="Measure how often a model is right.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--split", type=click.Choice(["val", "test"]), help="Of the data.  [default: test where there is one, else val]"
)
@click.option("--engine", metavar="NAME", help=ENGINE_HELP)
@click.option("--json", "as_json", is_flag=True, help="All numbers as one JSON object.")
def command(model: Path, data: str, split: SplitName | None, engine: str | None, as_json: bool) -> None:
    """Measure how often a model is right, on images with known labels.

    MODEL is the folder of a bundle (then torch answers) or of an artifact (no torch is needed). DATA is a folder with
    one folder of images per class, or digits, or cifar10; or a table, for images with any number of labels. Classes and
    labels are matched by name; their order may differ.

    \b
    Final numbers, and numbers to choose by:
        mobilenets val rose/ flowers/
        mobilenets val runs/train/mobilenet_v2-flowers/best flowers/ --split val

    \b
    The five worst classes:
        mobilenets val rose/ flowers/ --json | jq .classes[:5]

    A share of n images is uncertain; the interval covers the true value 95 times of 100 (Wilson 1927).
    """
    from ..bundle import is_bundle

    validation: Validation | LabelValidation
    if is_bundle(model):
        if engine is not None:
            raise click.UsageError("--engine is for artifacts; torch answers for a bundle")
        from ..bundle import read_bundle
        from ..train.validate import measure_bundle

        validation = measure_bundle(read_bundle(model), _opened(data), split=split)
    else:
        from ..runtime import open_artifact
        from ..runtime.validate import validate_artifact

        validation = validate_artifact(
            open_artifact(model, engine=engine_for(model, engine, threads=None)), _opened(data), split=split
        )
    if as_json:
        from ..records import to_json

        click.echo(json.dumps({"model": str(model), **to_json(validation)}, indent=2, ensure_ascii=False))
        return
    from ..runtime.validate import LabelValidation

    for line in (
        _label_lines(validation, model) if isinstance(validation, LabelValidation) else _lines(validation, model)
    ):
        click.echo(line)


def _opened(data: str) -> Dataset:
    """The data set; how it was split is said beside the numbers."""
    from ..data import open_dataset

    dataset = open_dataset(data)
    for note in dataset.summary.notes:
        click.echo(note, err=True)
    return dataset


def _lines(validation: Validation, model: Path) -> Iterator[str]:
    low, high = 100 * validation.top1_low, 100 * validation.top1_high
    yield f"{model} on {validation.data}, {validation.split}: {validation.n:,} images"
    yield f"  top-1              {100 * validation.top1:.2f} %  (95 % interval {low:.2f} to {high:.2f} %)"
    if validation.top5 is not None:
        yield f"  top-5              {100 * validation.top5:.2f} %"
    yield f"  balanced accuracy  {100 * validation.balanced:.2f} %  (every class counts alike)"
    yield f"  calibration error  {validation.calibration_error:.4f}  (0: right as often as it says)"
    wide = max(len("class"), *(len(score.label) for score in validation.classes))
    yield f"\n{'class':<{wide}}  accuracy  right     of  mostly taken for"
    for score in validation.classes:
        yield (
            f"{score.label:<{wide}}  {100 * score.accuracy:6.2f} %  {score.right:>5}  {score.n:>5}"
            f"  {score.mostly_taken_for or '-'}"
        )


def _label_lines(validation: LabelValidation, model: Path) -> Iterator[str]:
    yield f"{model} on {validation.data}, {validation.split}: {validation.n:,} images"
    yield f"  mean average precision  {100 * validation.map:.2f} %  (mean over labels)"
    yield f"  mean F1                 {100 * validation.f1:.2f} %  (there: above a probability of a half)"
    yield f"  loss                    {validation.loss:.4f} nats an image"
    wide = max(len("label"), *(len(score.label) for score in validation.labels))
    yield f"\n{'label':<{wide}}  precision        F1  images  known"
    for score in validation.labels:
        precision, f1 = (_share(value) for value in (score.average_precision, score.f1))
        yield f"{score.label:<{wide}}  {precision:>9}  {f1:>8}  {score.positive:>6}  {score.n:>5}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
