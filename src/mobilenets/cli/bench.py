"""`mobilenets bench`: how fast is it here?"""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="bench", short_help="Measure how fast artifacts answer here.")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ARTIFACT...")
@click.option("--threads", type=int, metavar="N", help="Threads of the engine.  [default: the cores, at most 4]")
@click.option("--batch-size", default=1, show_default=True, metavar="N", help="Images per run.")
@click.option("--seconds", default=3.0, show_default=True, metavar="S", help="For each artifact, after its warm-up.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON, machine and protocol included.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write timm's columns there.")
def command(
    artifacts: tuple[Path, ...],
    threads: int | None,
    batch_size: int,
    seconds: float,
    as_json: bool,
    csv_file: Path | None,
) -> None:
    """Measure how fast artifacts answer on this machine. Needs no torch.

    Each ARTIFACT is a folder that `mobilenets export` wrote. Several are timed in turn, in short rounds, each in a
    process of its own, so that they can be compared even on a busy machine; give one twice to see the noise.

    \b
    One, and two against each other:
        mobilenets bench flowers/
        mobilenets bench flowers-fp32/ flowers-int8/

    \b
    As it will run on the device, and for a record:
        mobilenets bench flowers/ --threads 1 --seconds 10 --json > speed.json
        mobilenets bench flowers/ --batch-size 32 --csv speed.csv
    """
    from ..bench import bench, to_csv, to_text
    from ..files import write_text

    report = bench(artifacts, threads=threads, batch_size=batch_size, seconds=seconds)
    if csv_file is not None:
        write_text(csv_file, to_csv(report))
    if as_json:
        import json

        from ..records import to_json

        click.echo(json.dumps(to_json(report), indent=2))
    else:
        click.echo(to_text(report), nl=False)
