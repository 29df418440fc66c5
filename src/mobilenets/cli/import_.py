"""`mobilenets import`: somebody else's trained weights as a bundle."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="import", short_help="Bring a trained checkpoint of another library.")
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the bundle.")
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Class names, one a line, in order.",
)
@click.option("--keep-background", is_flag=True, help="Keep class 0 of TensorFlow's 1001, which no image belongs to.")
@click.option(
    "--as",
    "known_as",
    metavar="NAME",
    help="What a state dict is of, for what its tensors do not show: timm:tf_mobilenetv3_large_100.",
)
@click.option("--json", "as_json", is_flag=True, help="What was read, as one JSON object.")
def command(
    source: str,
    out: Path | None,
    labels_file: Path | None,
    keep_background: bool,
    known_as: str | None,
    as_json: bool,
) -> None:
    """Bring a trained checkpoint of another library, with its own preprocessing, padding, epsilon and labels.

    SOURCE is a file or folder: .tflite (float, or whole-integer of any kind); .safetensors, .pth or .bin of timm,
    torchvision or Hugging Face transformers; .weights.h5, .h5 or .keras of Keras; a TF-slim checkpoint (model.ckpt, its
    folder or .tgz). Or a name, which is fetched and kept: timm:NAME, torchvision:NAME, hf:OWNER/NAME. Nothing is
    unpickled that is not a tensor.

    \b
    A file, then what it says of pictures:
        mobilenets import mobilenet_v2_1.0_224_quant.tflite -o v2
        mobilenets predict v2 cat.jpg

    \b
    By name, then fine-tuned on photos:
        mobilenets import timm:mobilenetv3_small_100.lamb_in1k -o v3
        mobilenets train v3 flowers/ --epochs 10

    Without -o, the folder is runs/import/NAME.
    """
    from ..arch import cost
    from ..bundle import is_bundle
    from ..errors import UsageError
    from ..records import to_json
    from ..runs import new_run_folder, run_name
    from ..weights import import_weights, read_labels

    if out is not None and out.exists() and not is_bundle(out) and any(out.iterdir()):
        raise UsageError(f"{out} holds something else", wanted="a new folder, or that of a bundle", do="name another")
    labels = None if labels_file is None else read_labels(labels_file)
    bundle = import_weights(source, labels=labels, keep_background=keep_background, known_as=known_as)
    folder = out if out is not None else new_run_folder("import", run_name(bundle.spec.name))
    bundle.write(folder)
    counted = cost(bundle.spec)
    if as_json:
        content = {
            "bundle": str(folder),
            "model": bundle.spec.name,
            "digest": bundle.digest,
            "parameters": counted.parameters,
            "mult_adds": counted.mult_adds,
            "classes": bundle.spec.head.classes,
            "padding": bundle.spec.padding,
            "norm": to_json(bundle.spec.norm),
            "preprocess": to_json(bundle.preprocess),
            "history": list(bundle.history),
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    click.echo(
        f"{folder}: {bundle.spec.name}, {counted.parameters:,} parameters, {counted.mult_adds / 1e6:.1f} M mult-adds,"
        f" {bundle.spec.head.classes} classes, {bundle.spec.resolution} pixels, {bundle.spec.padding} padding"
    )
    told = {key: value for key, value in bundle.history[0].items() if key != "step"}
    wide = max(map(len, told))
    for key, value in told.items():
        click.echo(f"  {key:<{wide}}  {value}")
    after = ["train", str(folder), "DATA"] if bundle.untrained_classifier else ["predict", str(folder), "IMAGE"]
    click.echo(f"next: {shlex.join(['mobilenets', *after])}")
