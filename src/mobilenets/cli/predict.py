"""`mobilenets predict`: what is in these images?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .engines import ENGINE_HELP, engine_for

if TYPE_CHECKING:
    from ..records import Prediction
    from ..runtime import Answers

__all__ = ["command"]


@click.command(name="predict", short_help="Say what is in images.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--top-k", type=int, metavar="N", help="At most this many labels per image.  [default: 5; of any number, all there]"
)
@click.option("--batch-size", default=8, show_default=True, metavar="N", help="Images per run of the engine.")
@click.option("--threads", type=int, metavar="N", help="Threads of the engine.  [default: the cores, at most 4]")
@click.option("--engine", metavar="NAME", help=ENGINE_HELP)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image and line.")
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    sources: tuple[str, ...],
    top_k: int | None,
    batch_size: int,
    threads: int | None,
    engine: str | None,
    as_json: bool,
) -> None:
    """Say what is in images.

    MODEL is a folder that `mobilenets export` wrote, which needs no torch, or a bundle that `mobilenets train` or
    `mobilenets import` wrote, which torch answers. A SOURCE is an image, a folder, a pattern in quotes, a .txt
    list of paths, or - for standard input (one image, or a list of paths).

    \b
    One image, all of a folder, only the best label:
        mobilenets predict flowers/ rose.jpg
        mobilenets predict flowers/ photos/ --top-k 1
        mobilenets predict flowers/ "photos/**/*.png"

    \b
    In a pipe:
        curl -s https://example.org/rose.jpg | mobilenets predict flowers/ -
        find photos -newer mark | mobilenets predict flowers/ - --json | jq .top[0].label

    Of a network that was trained for any number of labels, those above a probability of a half are told.

    An image that cannot be read is reported and the rest go on; if none can be read, the exit code is 2.
    """
    import os

    from ..progress import track
    from ..runtime import find_images, predict

    images = [image for source in sources for image in find_images(source)]
    opened = _opened(model, threads=threads, engine=engine)
    names = ["-" if isinstance(image, bytes) else str(image) for image in images]  # only standard input gives bytes
    predictions = _named(predict(opened, images, top_k=top_k, batch_size=batch_size), names)
    if len(images) > 1 and not sys.stdout.isatty():  # lines on a terminal are progress enough
        predictions = track(predictions, total=len(images), what="images")
    failed = 0
    try:
        lines = _json(predictions) if as_json else _table(predictions, names=names)
        for line, wrong in lines:
            failed += wrong
            click.echo(line)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes at exit
        return
    if failed:
        click.echo(f"{failed} of {len(images)} images could not be read", err=True)
    if failed == len(images):
        context.exit(2)


def _opened(path: Path, *, threads: int | None, engine: str | None) -> Answers:
    """An artifact, or the network of a bundle."""
    from ..bundle import is_bundle

    if not is_bundle(path):
        from ..runtime import open_artifact

        return open_artifact(path, engine=engine_for(path, engine, threads=threads), threads=threads)
    if threads is not None or engine is not None:
        raise click.UsageError("--threads and --engine are for artifacts; torch takes OMP_NUM_THREADS")
    from ..bundle import read_bundle
    from ..train.answer import BundleModel

    return BundleModel(read_bundle(path))


def _named(predictions: Iterable[Prediction], names: list[str]) -> Iterator[Prediction]:
    from msgspec.structs import replace

    for prediction, name in zip(predictions, names, strict=True):
        yield replace(prediction, image=name)


def _json(predictions: Iterable[Prediction]) -> Iterator[tuple[str, bool]]:
    import msgspec

    for prediction in predictions:
        yield msgspec.json.encode(prediction).decode(), prediction.error is not None


def _table(predictions: Iterable[Prediction], *, names: list[str]) -> Iterator[tuple[str, bool]]:
    """Lines as they come; the width is known beforehand, because all names are."""
    wide = max(len("image"), *(len(name) for name in names))
    yield f"{'image':<{wide}}  probability  label", False
    for prediction in predictions:
        if prediction.error is not None:
            yield f"{prediction.image:<{wide}}  error: {prediction.error}", True
        elif not prediction.top:
            yield f"{prediction.image:<{wide}}  {'-':>11}  (no label)", False
        for rank, score in enumerate(prediction.top):
            first = "" if rank else prediction.image
            yield f"{first:<{wide}}  {score.probability:11.4f}  {score.label}", False
