"""`mobilenets diagnose`: why is this network as good as it is?"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..data import SplitName
    from ..train import Row

__all__ = ["command"]


@click.command(name="diagnose", short_help="Say why a network is as good as it is, and what to do.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--split", type=click.Choice(["val", "test"]), help="Of the data.  [default: val where there is one]")
@click.option("--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write diagnosis.html and .json there."
)
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def command(bundle: Path, data: str, split: SplitName | None, device: str, out: Path | None, as_json: bool) -> None:
    """Say why a network is as good as it is, and what to do.

    BUNDLE is the folder of a bundle; where it lies in the folder of its training, results.csv there is read too. DATA
    is what it was trained on: a folder with one folder of images per class, or digits, or cifar10.

    \b
    Measured are accuracy by class on validation and on training images, confidence, what each row does on real images,
    gradients, and where the time of a training step goes:
        mobilenets diagnose runs/train/mobilenet_v2-flowers/best flowers/
        mobilenets diagnose runs/train/mobilenet_v2-flowers/best flowers/ -o why

    Causes are named only where the numbers speak for them; "likely" ones first, each with its evidence and a remedy.
    """
    from ..bundle import read_bundle
    from ..data import open_dataset
    from ..diagnose import diagnose, diagnosis_text, page
    from ..files import write_json, write_text
    from ..records import to_json

    read = read_bundle(bundle)
    found = diagnose(read, open_dataset(data), split=split, rows=_curve(bundle), device=device)
    if out is not None:
        write_json(out / "diagnosis.json", to_json(found))
        write_text(out / "diagnosis.html", page(found))
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2, ensure_ascii=False))
        return
    click.echo(diagnosis_text(found))
    if out is not None:
        click.echo(f"\npage: {out / 'diagnosis.html'}")


def _curve(bundle: Path) -> tuple[Row, ...]:
    """The validations of the training whose folder the bundle lies in; none where it lies elsewhere."""
    import msgspec

    from ..errors import FileFormatError
    from ..train import Row

    folder = bundle.parent if bundle.name == "bundle.json" else bundle
    path = folder.parent / "results.csv"
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(msgspec.convert(row, Row, strict=False) for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error, msgspec.ValidationError) as error:
        raise FileFormatError(
            f"cannot read {path}: {error}", wanted="the results of a training", do="move the bundle out of that folder"
        ) from error
