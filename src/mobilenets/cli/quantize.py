"""`mobilenets quantize`: int8 that is as right as float32 and faster, or no file."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .artifacts import gate_images_of, is_fp32_of, replaceable

if TYPE_CHECKING:
    from ..export import Calibrate, Quantized
    from ..records import Artifact

__all__ = ["command"]


@click.command(name="quantize", short_help="Make an int8 file that is as right as float32, and faster.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the artifact.")
@click.option(
    "--calibration",
    type=click.Choice(("auto", "minmax", "percentile", "entropy")),
    default="auto",
    show_default=True,
    help="How ranges are found; auto tries ways on images held back.",
)
@click.option("--threads", type=int, metavar="N", help="For measuring speed.  [default: the cores, at most 4]")
@click.option("--json", "as_json", is_flag=True, help="The record, gates and trials as one JSON object.")
def command(
    bundle: Path, data: str, out: Path | None, calibration: Calibrate, threads: int | None, as_json: bool
) -> None:
    """Make an int8 file that is as right as float32, and faster.

    BUNDLE is a folder that `mobilenets train` or `mobilenets import` wrote. Training images of DATA tell the ranges of
    numbers; validation images are answered by the network and by the file, and both files are timed in turn. If int8
    loses more than a point of accuracy, or is not faster, there is no file, and the exit code is 1.

    \b
    Try what there is to try, keep the best:
        mobilenets quantize runs/train/mobilenet_v3_small-flowers/best flowers/ -o rose-int8

    \b
    One way, without trials:
        mobilenets quantize runs/train/mobilenet_v2-flowers/best flowers/ --calibration minmax

    The file is ONNX, for ONNX Runtime. The float32 artifact it was measured against stays beside it (here: rose-fp32).
    Without -o, the folder is runs/export/NAME-int8.
    """
    from ..bundle import read_bundle
    from ..data import open_dataset
    from ..runs import new_run_folder, run_name

    read = read_bundle(bundle)
    dataset = open_dataset(data)
    images = gate_images_of(read, dataset)
    folder = replaceable(out) if out is not None else new_run_folder("export", run_name(read.spec.name, "int8"))
    beside = folder.with_name(folder.name.removesuffix("-int8") + "-fp32")
    try:
        from ..export import export, export_int8
        from ..export.images import calibration_images
        from ..progress import say

        if not is_fp32_of(read, beside, format_="onnx"):
            export(read, replaceable(beside), images=images)
            say(f"float32 for comparison: {beside}")
        artifact, quantized = export_int8(
            read,
            folder,
            images=images,
            calibration_images=calibration_images(dataset, read.preprocess),
            calibration=calibration,
            faster_than=beside,
            threads=threads,
        )
    except BaseException:
        with contextlib.suppress(OSError):  # a refused one leaves no empty folder behind
            folder.rmdir()
        raise
    if as_json:
        click.echo(json.dumps(_content(folder, beside, artifact, quantized), indent=2, ensure_ascii=False))
        return
    from ..export import describe

    click.echo(f"{folder}: {artifact.file}, int8, {artifact.size_mb:.3f} MB; it passed")
    click.echo(describe(artifact))
    click.echo(f"made by: {quantized.kept.described()}")
    click.echo(f"beside it, as float32: {beside}")
    click.echo(f"next: {shlex.join(['mobilenets', 'bench', str(beside), str(folder)])}")


def _content(folder: Path, beside: Path, artifact: Artifact, quantized: Quantized) -> dict[str, object]:
    from ..records import to_json

    return {
        "artifact": str(folder),
        "fp32": str(beside),
        **to_json(artifact),
        "gates": [{**to_json(gate), "passed": gate.passed} for gate in artifact.gates],
        "kept": to_json(quantized.kept),
        "trials": [to_json(trial) for trial in quantized.trials],
    }
