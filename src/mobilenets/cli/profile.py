"""`mobilenets profile`: where does the time go?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .engines import engine_for

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["command"]


@click.command(name="profile", short_help="Say where the time goes, row by row.")
@click.argument("target", metavar="ARTIFACT|BUNDLE|MODEL")
@click.option("--engine", metavar="NAME", help="onnxruntime or openvino.  [default: the one for the format]")
@click.option("--threads", type=int, metavar="N", help="Threads of the engine.  [default: the cores, at most 4]")
@click.option("--batch-size", default=1, show_default=True, metavar="N", help="Images per run.")
@click.option("--seconds", default=1.0, show_default=True, metavar="S", help="For the profiled runs.")
@click.option("--json", "as_json", is_flag=True, help="All of it, every operator included, as one JSON object.")
def command(
    target: str, engine: str | None, threads: int | None, batch_size: int, seconds: float, as_json: bool
) -> None:
    """Say where the time goes, row by row, worst first, and why.

    The engine's own profiler measures an artifact's operators. They bear the names of the table's layers, so that for
    each row there is its time, its mult-adds, the bytes of its weights and activations, what the engine moved, and the
    least time that this machine's peaks allow. What belongs to no row is told as well: the parts sum to the whole.

    A bundle, or the name of a network, is written as a float32 ONNX file first; for that, onnx must be installed.

    \b
    Examples:
        mobilenets profile rose/
        mobilenets profile rose-int8/ --threads 1
        mobilenets profile rose/ --engine openvino
        mobilenets profile mobilenet_v3_small
        mobilenets profile rose/ --json | jq '.parts[0].reason'
    """
    from ..profiling import profile, to_text

    with _artifact(target) as path:
        chosen = engine_for(path, engine, threads=threads)
        found = profile(path, engine=chosen, threads=threads, batch_size=batch_size, seconds=seconds)
    import msgspec

    found = msgspec.structs.replace(found, name=target)
    if as_json:
        import json

        from ..records import to_json

        click.echo(json.dumps(to_json(found), indent=2))
    else:
        click.echo(to_text(found), nl=False)


@contextlib.contextmanager
def _artifact(target: str) -> Iterator[Path]:
    """The artifact to profile; one that is made for it, and thrown away, of a bundle or a network by name."""
    from ..bundle import is_bundle

    path = Path(target)
    if not is_bundle(path) and path.exists() and not (path.is_file() and _is_table(path)):
        yield path
        return
    import tempfile

    bundle = _bundle(path) if is_bundle(path) else _untrained(target)
    from ..export import write_ungated

    with tempfile.TemporaryDirectory() as folder:
        write_ungated(bundle, Path(folder) / "artifact")
        yield Path(folder) / "artifact"


def _is_table(path: Path) -> bool:
    return path.suffix == ".json" and path.name != "artifact.json"


def _bundle(path: Path) -> Bundle:
    from ..bundle import read_bundle

    return read_bundle(path)


def _untrained(target: str) -> Bundle:
    """A network of a known name, or of a table in a file, with random weights: its time does not depend on them."""
    from ..arch import find
    from ..fit.latency import untrained_bundle

    return untrained_bundle(find(target))
