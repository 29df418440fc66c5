"""`mobilenets export`: a file that runs without torch, and answers like the network it came from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from ..records import Format, Precision, only_classifiers
from .artifacts import gate_images_of, is_fp32_of, replaceable
from .export_weights import LIBRARIES, export_weights
from .training import left_only_full

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..data import Dataset
    from ..export import GateImages
    from ..records import Artifact
    from ..weights import Library

__all__ = ["command"]


@click.command(name="export", short_help="Make a file that runs without torch, and check its answers.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", metavar="DATA", help="The data it was trained on: folder, table, digits or cifar10.")
@click.option("--images", metavar="IMAGES", help="Instead: pictures without labels (folder or pattern); not for int8.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the artifact.")
@click.option(
    "--format",
    "format_",
    type=click.Choice((*get_args(Format), *LIBRARIES)),
    default="onnx",
    show_default=True,
    help="A file that runs, or the weights by the names of another library.",
)
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option("--threads", type=int, metavar="N", help="For measuring speed.  [default: the cores, at most 4]")
@click.option("--json", "as_json", is_flag=True, help="The artifact's record, gates included, as one JSON object.")
def command(
    bundle: Path,
    data: str | None,
    images: str | None,
    out: Path | None,
    format_: Format | Library,
    precision: Precision,
    threads: int | None,
    as_json: bool,
) -> None:
    """Make a file that runs without torch, and check its answers.

    BUNDLE is a folder that `mobilenets train` or `mobilenets import` wrote. Validation images of DATA go through the
    network and through the file; if they disagree by more than rounding explains, there is no file, and the exit code
    is 1.

    \b
    As float32, then use it anywhere that has onnxruntime:
        mobilenets export runs/train/mobilenet_v2-flowers/best --data flowers/ -o rose
        mobilenets predict rose/ garden.jpg

    \b
    As int8, calibrated on training images and held against float32 in accuracy and speed:
        mobilenets export runs/train/mobilenet_v2-flowers/best --data flowers/ -o rose-int8 --precision int8

    \b
    For other engines: OpenVINO, LiteRT (phones, boards), ExecuTorch, torch itself:
        mobilenets export BUNDLE --data flowers/ -o rose-ov --format openvino --precision bf16
        mobilenets export BUNDLE --data flowers/ -o rose-tflite --format tflite --precision fp16

    \b
    Imported weights, held against pictures that nobody labelled:
        mobilenets export v2 --images holiday/ -o v2-onnx

    \b
    The weights alone, for other people's code; held against that library itself, where it is installed:
        mobilenets export v2 --format timm -o v2.safetensors

    fp16 keeps weights in half the size, int8-weights in a quarter, and both compute in float32 (Core ML: in float16);
    bf16 computes in bfloat16, which the processor has to have; int8 is both smaller and faster, or it is refused, and
    so is int8-dynamic, which finds its value ranges at each run and needs no --data. With these, the float32 artifact
    that they were measured against stays beside them (here: rose-fp32). Without -o, the folder is
    runs/export/NAME-PRECISION.

    ExecuTorch is heavy: MOBILENETS_CONVERTER_PYTHON may name the Python of another environment that has it.
    """
    from ..errors import UsageError

    if format_ == "timm" or format_ == "torchvision" or format_ == "transformers":
        if data is not None or images is not None or precision != "fp32" or threads is not None:
            raise click.UsageError(f"--format {format_} writes the weights as they are; give only -o")
        export_weights(bundle, library=format_, out=out, as_json=as_json)
        return
    if data is not None and images is not None:
        raise click.UsageError("--data and --images both say what the file is held against; give one")
    if data is None and (images is None or precision == "int8"):
        raise UsageError(
            "there is no --data",
            wanted="the images the model was trained on: the file must answer like the network on real images, for on"
            " noise even a wrong one may, and int8 reads its value ranges from them",
            do="give --data DATA, as for mobilenets train; for all but int8, --images with pictures is enough",
        )
    from ..bundle import read_bundle
    from ..data import open_dataset
    from ..export import maker_of
    from ..runs import new_run_folder, run_name

    maker_of(format_, precision)  # what cannot be made is told before images are read
    read = read_bundle(bundle)
    if precision == "int8":
        only_classifiers(read.task, what="int8")
    dataset = None if data is None else open_dataset(data)
    held = _pictures(read, images or "") if dataset is None else gate_images_of(read, dataset)
    folder = (
        replaceable(out)
        if out is not None
        else new_run_folder(
            "export", run_name(read.spec.name, precision if format_ == "onnx" else f"{format_}-{precision}")
        )
    )
    with left_only_full(folder):  # a refused export leaves no empty folder behind
        artifact, beside = _export(
            read, folder, dataset=dataset, images=held, format_=format_, precision=precision, threads=threads
        )
    if as_json:
        from ..records import to_json

        gates = [{**to_json(gate), "passed": gate.passed} for gate in artifact.gates]
        content = {"artifact": str(folder), "fp32": None if beside is None else str(beside), **to_json(artifact)}
        click.echo(json.dumps({**content, "gates": gates}, indent=2, ensure_ascii=False))
        return
    from ..export import describe

    click.echo(f"{folder}: {artifact.file}, {precision}, {artifact.size_mb:.3f} MB; it passed")
    click.echo(describe(artifact))
    if beside is not None:
        click.echo(f"beside it, as float32: {beside}")
    both = [str(path) for path in (beside, folder) if path is not None]
    click.echo(f"next: {shlex.join(['mobilenets', 'bench', *both])}")


def _export(
    bundle: Bundle,
    folder: Path,
    *,
    dataset: Dataset | None,
    images: GateImages,
    format_: Format,
    precision: Precision,
    threads: int | None,
) -> tuple[Artifact, Path | None]:
    """The artifact, and where the float32 one is that it was measured against."""
    from ..export import Limits, export
    from ..export.images import calibration_images
    from ..progress import say

    if Limits.of(precision).speedup is None:
        return export(bundle, folder, images=images, format=format_, precision=precision), None
    beside = folder.with_name(folder.name.removesuffix(f"-{precision}") + "-fp32")
    if not is_fp32_of(bundle, beside, format_=format_):
        export(bundle, replaceable(beside), images=images, format=format_)
        say(f"float32 for comparison: {beside}")
    made = export(
        bundle,
        folder,
        images=images,
        format=format_,
        precision=precision,
        calibration=calibration_images(dataset, bundle.preprocess) if dataset and precision == "int8" else None,
        faster_than=beside,
        threads=threads,
    )
    return made, beside


def _pictures(bundle: Bundle, source: str) -> GateImages:
    from ..export.images import unlabelled_images
    from ..runtime import find_images

    return unlabelled_images(find_images(source), bundle.preprocess, on="pictures")
