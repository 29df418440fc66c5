"""`mobilenets verify`: are the tables those of the papers?"""

from __future__ import annotations

import json
from collections import Counter

import click

__all__ = ["command"]


@click.command(name="verify", short_help="Recount every published number.")
@click.option("--all", "show_all", is_flag=True, help="Every number, not only those that do not agree.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def command(show_all: bool, as_json: bool) -> None:
    """Recount every published parameter and mult-add count that we hold, and compare.

    Numbers are those of the papers' tables, of TF-slim's checkpoints, and of timm's and torchvision's networks. A
    number that cannot be reproduced as printed is told with the reason (erratum); one that differs without a known
    reason ends with exit code 1.

    \b
    Examples:
        mobilenets verify
        mobilenets verify --all
        mobilenets verify --json | jq '.checks[] | select(.verdict == "erratum")'
    """
    from ..arch import verify
    from ..errors import CheckError
    from ..records import to_json

    checks = verify()
    counts = Counter(check.verdict for check in checks)
    if as_json:
        click.echo(json.dumps({"counts": counts, "checks": to_json(checks)}, indent=2, ensure_ascii=False))
    else:
        for check in checks:
            if show_all or check.verdict in ("erratum", "mismatch"):
                fact = check.fact
                printed = f"{fact.value:,.0f}" if fact.unit == 1 else f"{fact.value:g} M"
                click.echo(
                    f"{check.verdict:<9}  {fact.model:<32}  {fact.metric:<10}  published {printed:>14}"
                    f"  counted {check.computed:>14,}  {fact.source}" + (f"; {fact.erratum}" if fact.erratum else "")
                )
        told = ", ".join(f"{counts[v]} {v}" for v in ("equal", "prints as", "erratum", "mismatch"))
        click.echo(f"{len(checks)} numbers: {told}")
    if counts["mismatch"]:
        raise CheckError(
            f"{counts['mismatch']} of {len(checks)} numbers do not agree",
            wanted="each equal, or with a known reason",
            do="look at the lines that say mismatch",
        )
