"""`mobilenets verify`: are the tables those of the papers?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..arch import Check, Fact, Line

__all__ = ["command"]

PLOTS = Path("runs") / "verify"
UNITS = {1e6: " M", 1e9: " B", 0.01: " %", 1e3: " Kb", 1: ""}


@click.command(name="verify", short_help="Recount every published number.")
@click.option("--all", "show_all", is_flag=True, help="Every number, not only those that do not agree.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=PLOTS,
    metavar="[DIR or FILE.png]",
    help=f"Draw accuracy against what we count: Figures 4 and 5 of the V1 paper, and all families. [{PLOTS}]",
)
def command(show_all: bool, as_json: bool, plot: Path | None) -> None:
    """Recount every published number about our networks that we hold, and compare.

    Numbers are parameters, mult-adds, shares, memory, and whole lines of tables: of the four papers, of TF-slim's
    checkpoints, and of timm's, torchvision's and Keras's networks; those of detectors and segmenters too. A number that
    is not what its network counts to is told with the reason (erratum); one that differs without a known reason ends
    with exit code 1.

    \b
    Examples:
        mobilenets verify
        mobilenets verify --all
        mobilenets verify --plot figures/
        mobilenets verify --json | jq '.checks[] | select(.verdict == "erratum")'
    """
    from ..arch import verify
    from ..errors import CheckError
    from ..records import to_json

    checks = verify()
    counts = Counter(check.verdict for check in checks)
    if as_json:
        told = [{"metric": check.metric, **to_json(check)} for check in checks]
        click.echo(json.dumps({"counts": counts, "checks": told}, indent=2, ensure_ascii=False))
    else:
        for line in _lines(checks, show_all=show_all):
            click.echo(line)
        verdicts = ", ".join(f"{counts[v]} {v}" for v in ("equal", "prints as", "erratum", "mismatch"))
        click.echo(f"{len(checks)} numbers: {verdicts}")
    if plot is not None:
        from ..arch.figures import write_figures

        for path in write_figures(plot):
            click.echo(f"drawn: {path}", err=as_json)
    if counts["mismatch"]:
        raise CheckError(
            f"{counts['mismatch']} of {len(checks)} numbers do not agree",
            wanted="each equal, or with a known reason",
            do="look at the lines that say mismatch",
        )


def _lines(checks: Sequence[Check], *, show_all: bool) -> Iterator[str]:
    """A line for each page, and below it what does not agree, or everything."""
    from ..arch import tables

    pages = {table.name: table for table in tables()}
    for name, group in groupby(checks, key=lambda check: check.table):
        on_page, page = list(group), pages[name]
        yield f"{name}: {_counted(on_page)} ({page.about})"
        if show_all and page.note is not None:
            yield f"  note: {page.note}"
        by_reason: dict[str | None, list[Check]] = {}
        for check in on_page:
            if show_all or check.verdict in ("erratum", "mismatch"):
                by_reason.setdefault(check.about.erratum, []).append(check)
        for reason, same in by_reason.items():
            yield from (f"  {check.verdict:<9}  {_told(check)}" for check in same)
            if reason is not None:
                yield f"             {reason}"


def _counted(checks: Sequence[Check]) -> str:
    counts = Counter(check.verdict for check in checks)
    rows = sum(check.metric == "row" for check in checks)
    what = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((len(checks) - rows, "number"), (rows, "row")) if n]
    match = counts["equal"] + counts["prints as"]
    told = [f"{match} match"]
    told += ["1 erratum" if counts["erratum"] == 1 else f"{counts['erratum']} errata"] if counts["erratum"] else []
    told += [f"{counts['mismatch']} do not"] if counts["mismatch"] else []
    return ", ".join([" and ".join(what), *told])


def _told(check: Check) -> str:
    from ..arch import Fact, Line

    about = check.about
    if isinstance(about, Fact):
        counted = f"{check.computed:,}" if isinstance(check.computed, int) else f"{check.computed:.6g}"
        what = f"{about.metric} of {about.part}" if about.part else about.metric
        return f"{about.model:<36}  {what:<30}  printed {_printed(about):>13}  counted {counted:>14}"
    if isinstance(about, Line):
        return f"{about.model:<36}  {_line(about, check.computed)}"
    raise TypeError(f"a check about {type(about).__name__}")


def _printed(fact: Fact) -> str:
    if fact.exact:
        return f"{int(fact.value):,}"
    return fact.printed + UNITS[fact.unit]


def _line(line: Line, computed: object) -> str:
    """The line as printed; where our table differs, both: "stride 2 (ours: 1)"."""
    ours = computed if isinstance(computed, dict) else {}
    if not line.cells:
        return f"a line that the page does not have: {ours}"
    cells = []
    for head, printed in line.cells.items():
        differs = head not in ours or head in (line.counted or {}) or _plain(ours[head]) != _plain(printed)
        cells.append(f"{head} {_plain(printed)}" + (f" (ours: {_plain(ours.get(head))})" if differs else ""))
    return ", ".join(cells)


def _plain(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)
