"""`mobilenets slice`: a plain network of one width and resolution out of an elastic one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="slice", short_help="Take one width and resolution out of an elastic bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--alpha", type=float, required=True, metavar="A", help="Width multiplier, such as 0.6.")
@click.option("--resolution", type=int, metavar="R", help="Input side in pixels.  [default: the bundle's]")
@click.option("--data", metavar="DATA", help="Whose training images give the statistics of the norms.")
@click.option("--images", type=click.IntRange(min=2), help="So many of them at least.  [default: 2048]")
@click.option("--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="[default: runs/slice/NAME]")
@click.option("--json", "as_json", is_flag=True, help="What was made as one JSON object.")
def command(
    bundle: Path,
    alpha: float,
    resolution: int | None,
    data: str | None,
    images: int | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Take a network of one width and resolution out of an elastic bundle: a bundle like any other.

    BUNDLE is a folder that `mobilenets elastic` wrote. Width and resolution may be anything in the range it was
    trained for. DATA is the folder or name it was trained on.

    \b
    Examples:
        mobilenets slice runs/elastic/mobilenet_v2-cifar10/best --alpha 0.6 --data cifar10
        mobilenets slice elastic/best --alpha 0.5 --resolution 160 --data flowers/ -o half
        mobilenets val half flowers/
        mobilenets export half --data flowers/ -o half-artifact
    """
    from ..arch import cost
    from ..bundle import read_bundle
    from ..compress.slice import RECALIBRATION_IMAGES, policy_of, slice_bundle
    from ..data import open_dataset
    from ..errors import UsageError
    from ..records import only_classifiers
    from ..runs import new_run_folder

    elastic = read_bundle(bundle)
    only_classifiers(elastic.task, what="slice")
    policy_of(elastic)  # whatever else is wrong, this is told first
    if data is None:
        raise UsageError(
            "--data is not given",
            wanted="training images: the activations of a narrower network, or of smaller images, have other means and "
            "variances, which its batch norms need",
            do="name the data it was trained on: --data DATA",
        )
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already", wanted="a new folder", do="name another with -o")
    made = slice_bundle(
        elastic,
        alpha=alpha,
        resolution=resolution,
        dataset=open_dataset(data),
        device=device,
        images=images or RECALIBRATION_IMAGES,
    )
    folder = out or new_run_folder("slice", made.spec.name)
    made.write(folder)
    counted = cost(made.spec)
    if as_json:
        facts = {
            "bundle": str(folder),
            "model": made.spec.name,
            "digest": made.digest,
            "resolution": made.spec.resolution,
            "parameters": counted.parameters,
            "mult_adds": counted.mult_adds,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{folder}  {made.spec.name}: {counted.mult_adds / 1e6:.2f} M mult-adds, {counted.size_mb:.2f} MB")
    click.echo(f"next: {shlex.join(['mobilenets', 'val', str(folder), data])}")
