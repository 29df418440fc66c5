"""`mobilenets doctor`: what is wrong with this file?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..data import SplitName
    from ..doctor import Norm

__all__ = ["command"]


@click.command(name="doctor", short_help="Say what is wrong with a model file, or slow in it.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Of the data.  [default: test where there is one, else val]",
)
@click.option(
    "--fed",
    type=click.Choice(["imagenet", "minus1to1", "0to1", "0to255"]),
    help="How a file without a record is fed by those who use it.  [default: as its input speaks for; else imagenet]",
)
@click.option("--bgr", is_flag=True, help="... with blue first.")
@click.option("--provider", metavar="NAME", help="Of ONNX Runtime.  [default: CPUExecutionProvider]")
@click.option("--strict", is_flag=True, help="Exit with 1 where anything but notes is found.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def command(
    artifact: Path,
    data: str | None,
    split: SplitName | None,
    fed: Norm | None,
    bgr: bool,
    provider: str | None,
    strict: bool,
    as_json: bool,
) -> int:
    """Say what is wrong with a model file, slow in it, or easily used wrongly. Needs no torch.

    ARTIFACT is a folder that `mobilenets export` wrote, or anybody's classifier: an .onnx, .tflite, or OpenVINO's .xml.
    DATA is a folder with one folder of images per class: then up to 256 of them are fed in every usual way (red
    or blue first; ImageNet's mean and std, [-1, 1], [0, 1], [0, 255]), and a better one is named if it is better beyond
    chance.

    \b
    A file of ours, and somebody else's:
        mobilenets doctor rose/
        mobilenets doctor mobilenetv3.onnx

    \b
    With images; in a script that stops where something is wrong:
        mobilenets doctor rose/ flowers/
        mobilenets doctor mobilenetv3.onnx flowers/ --fed minus1to1 --strict

    Each finding has its evidence, what it costs and what to do. "wrong" spoils answers, "slow" and "large" cost time
    and bytes, a "note" is right as it is and easily used wrongly.
    """
    from ..data import open_dataset
    from ..doctor import checkup_text, doctor
    from ..records import to_json

    found = doctor(
        artifact,
        None if data is None else open_dataset(data),
        split=split,
        fed=fed,
        order="BGR" if bgr else "RGB",
        **({} if provider is None else {"provider": provider}),
    )
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2, ensure_ascii=False))
    else:
        click.echo(checkup_text(found))
    return int(strict and any(finding.weight != "note" for finding in found.findings))
