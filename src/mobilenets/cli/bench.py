"""`mobilenets bench`: how fast is it here?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..bench import Entry

__all__ = ["command"]


@click.command(name="bench", short_help="Measure how fast artifacts answer here.")
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT[@ENGINE]...")
@click.option(
    "--engine",
    metavar="NAME",
    help="Of artifacts without @ENGINE; auto: the fastest here; all: each that opens it.  [default: the format's]",
)
@click.option("--peers", is_flag=True, help="Time the same networks of timm and torchvision as well; needs torch.")
@click.option("--end-to-end", "images", metavar="IMAGES", help="Time from files to labels: pictures, as for predict.")
@click.option("--roofline", is_flag=True, help="Measure this machine's peaks too, and what holds each artifact back.")
@click.option(
    "--kit", is_flag=True, help="Time what `fit --kit` wrote, for a fit elsewhere; leaves latencies.json in it."
)
@click.option("--threads", type=int, metavar="N", help="Threads of the engine.  [default: the cores, at most 4]")
@click.option("--batch-size", default=1, show_default=True, metavar="N", help="Images per run.")
@click.option("--seconds", default=3.0, show_default=True, metavar="S", help="For each artifact, after its warm-up.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON, machine and protocol included.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write timm's columns there.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png|svg",
    help="Draw latencies with their intervals, and sizes; needs matplotlib.",
)
def command(
    artifacts: tuple[str, ...],
    engine: str | None,
    peers: bool,
    images: str | None,
    roofline: bool,
    kit: bool,
    threads: int | None,
    batch_size: int,
    seconds: float,
    as_json: bool,
    csv_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure how fast artifacts answer on this machine. Needs no torch.

    Each ARTIFACT is a folder that `mobilenets export` wrote. Several are timed in turn, in short rounds, each in a
    process of its own, so that they can be compared even on a busy machine; give one twice to see the noise.

    \b
    One, and two against each other:
        mobilenets bench flowers/
        mobilenets bench flowers-fp32/ flowers-int8/

    \b
    Engines against each other:
        mobilenets bench flowers/@onnxruntime flowers/@openvino flowers-tflite/
        mobilenets bench flowers/ --engine all

    \b
    Against what one would otherwise run: timm and torchvision (as they are, channels_last, bfloat16, torch.compile) and
    a plain export to ONNX Runtime:
        mobilenets bench v2/ --peers

    \b
    From JPEG files to labels:
        mobilenets bench flowers/ --end-to-end photos/

    \b
    Against what this machine could do, and which rows of the network hold it back:
        mobilenets bench flowers/ flowers-int8/ --roofline

    \b
    As it will run on the device, and for a record:
        mobilenets bench flowers/ --threads 1 --seconds 10 --json > speed.json
        mobilenets bench flowers/ --batch-size 32 --csv speed.csv --plot speed.svg

    \b
    For a fit of this device that is trained on another machine (stopped, the same command goes on):
        mobilenets bench --kit kit/ --threads 4

    Where the processor tells its energy (Linux: /sys/class/powercap, often for root only), joules per image are told.
    """
    if kit:
        if len(artifacts) != 1 or engine or peers or images or roofline or csv_file or plot or batch_size != 1:
            raise click.UsageError("--kit takes one folder, --threads and --seconds, and nothing else")
        _time_kit(Path(artifacts[0]), threads=threads, seconds=seconds, as_json=as_json)
        return
    if roofline and images:
        raise click.UsageError("--roofline is about the network's answer; --end-to-end times files as well")
    from ..bench import bench, draw, picture_format, to_csv, to_text
    from ..files import write_bytes, write_text

    kind = None if plot is None else picture_format(plot)
    entries = [entry for each in artifacts for entry in _entries(each, engine, threads=threads)]
    if peers:
        entries += _peers(entries)
    report = bench(
        entries, threads=threads, batch_size=batch_size, seconds=seconds, images=_files(images) if images else ()
    )
    if roofline:
        from ..profiling import with_roofline

        report = with_roofline(report, entries, seconds=seconds / 3)  # a profile is a mean, and needs less
    if csv_file is not None:
        write_text(csv_file, to_csv(report))
    if plot is not None and kind is not None:
        write_bytes(plot, draw(report, kind=kind))
    if as_json:
        import json

        from ..records import to_json

        click.echo(json.dumps(to_json(report), indent=2))
    else:
        click.echo(to_text(report), nl=False)
        if roofline:
            from ..profiling import roofline_text

            click.echo(roofline_text(report), nl=False)


def _time_kit(folder: Path, *, threads: int | None, seconds: float, as_json: bool) -> None:
    from ..bench import LATENCIES_NAME, measure_kit

    found = measure_kit(folder, threads=threads, seconds=seconds)
    if as_json:
        import json

        from ..records import to_json

        click.echo(json.dumps(to_json(found), indent=2))
        return
    fastest = min(found.entries, key=lambda entry: entry.latency.median_ms)
    slowest = max(found.entries, key=lambda entry: entry.latency.median_ms)
    click.echo(
        f"{len(found.entries)} networks: {fastest.latency.median_ms:.2f} ms ({fastest.spec_name}, {fastest.precision})"
        f" to {slowest.latency.median_ms:.2f} ms ({slowest.spec_name}, {slowest.precision})"
    )
    click.echo(
        f"take {folder / LATENCIES_NAME} to where it is trained: mobilenets fit DATA --latencies {LATENCIES_NAME} ..."
    )


def _entries(artifact: str, engine: str | None, *, threads: int | None) -> Iterator[Entry]:
    """An argument with its engine; one for each engine with `--engine all`."""
    from ..bench import Entry
    from ..runtime import ENGINES, engines_for, is_installed, read_artifact
    from .engines import engine_for

    path, at, own = artifact.rpartition("@")
    if not at or Path(artifact).exists():  # a folder may well be called so
        path, own = artifact, ""
    asked = own or engine
    if asked == "all":
        record, _ = read_artifact(Path(path))
        for name in engines_for(record.format):
            if is_installed(name):
                # "all" names none, so a file that can run code is refused as it is without a name.
                yield Entry(path=path, engine=None if ENGINES[name].runs_code else name)
        return
    yield Entry(path=path, engine=engine_for(Path(path), asked, threads=threads))


def _peers(entries: list[Entry]) -> list[Entry]:
    """The peers of all artifacts, each once.

    Raises:
        UsageError: there are none.
    """
    from ..errors import UsageError
    from ..peers import peers_of
    from ..runtime import read_artifact

    records = [read_artifact(Path(entry.path))[0] for entry in entries]
    found = {peer.name: peer for record in records for peer in peers_of(record)}
    if not found:
        raise UsageError(
            f"timm and torchvision have no network like {', '.join(sorted({record.spec_name for record in records}))}",
            wanted="a catalogue network at a width they know, and one of them installed",
            do='leave --peers away, or: pip install timm "mobilenets[train]"',
        )
    return list(found.values())


def _files(images: str) -> tuple[Path, ...]:
    """Image files; standard input has no place in a measurement.

    Raises:
        UsageError: there are none.
    """
    from ..errors import UsageError
    from ..runtime import find_images

    files = tuple(source for source in find_images(images) if isinstance(source, Path))
    if not files:
        raise UsageError(f"{images} gives no image files", wanted="pictures", do="give a folder or a pattern")
    return files
