"""What verbs that prune have in common: what the result may cost, how narrow widths may become, and who measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from .params import AMOUNT, Amount
from .training import together

if TYPE_CHECKING:
    from ..arch import ArchSpec
    from ..compress import Budget, Measure, Target
    from ..records import Precision

__all__ = ["BUDGETS", "BUDGET_OPTIONS", "CHOICE_OPTIONS", "THREADS", "latencies", "one_budget", "target_of"]

BUDGETS: Final[tuple[Budget, ...]] = ("mult_adds", "parameters", "size_mb", "latency_ms")
BUDGET_OPTIONS: Final = together(
    click.option("--mult-adds", type=AMOUNT, metavar="N", help="The result has at most so many: 0.5x, 150M."),
    click.option(
        "--parameters", type=AMOUNT, metavar="N", help="Instead: at most so many trained numbers: 0.5x, 1.5M."
    ),
    click.option("--size-mb", type=AMOUNT, metavar="N", help="Instead: at most so many 10^6 bytes: 0.5x, 4."),
    click.option("--latency-ms", type=AMOUNT, metavar="N", help="Instead: measured here, on ONNX: 0.6x, 2.5."),
)
CHOICE_OPTIONS: Final = together(
    click.option(
        "--importance", type=click.Choice(("l1", "l2", "norm", "taylor")), help="[default: taylor; l2 without DATA]"
    ),
    click.option("--allocation", type=click.Choice(("global", "uniform")), default="global", show_default=True),
    click.option("--divisor", default=8, show_default=True, metavar="N", help="Widths become multiples of this."),
    click.option("--minimum", default=8, show_default=True, metavar="N", help="No width falls below this."),
    click.option("--least-share", default=0.1, show_default=True, metavar="S", help="Of each width, this much stays."),
)
THREADS: Final = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="For latencies.  [default: the cores, at most 4]"
)


def target_of(
    *, mult_adds: Amount | None, parameters: Amount | None, size_mb: Amount | None, latency_ms: Amount | None
) -> Target | None:
    """What is bounded; None where nothing is.

    Raises:
        click.UsageError: several things are.
        UsageError: a bound that cannot be.
    """
    from ..compress import Target

    asked = [
        (of, amount)
        for of, amount in zip(BUDGETS, (mult_adds, parameters, size_mb, latency_ms), strict=True)
        if amount is not None
    ]
    if not asked:
        return None
    if len(asked) > 1:
        raise click.UsageError(f"{one_budget()}: they all say what the result may cost")
    ((of, amount),) = asked
    return Target(of=of, most=amount.number, relative=amount.relative)


def one_budget() -> str:
    """What to say where one is missing, or one too many is there."""
    return f"give one of {', '.join('--' + of.replace('_', '-') for of in BUDGETS)}"


def latencies(precision: Precision = "fp32", *, threads: int | None) -> Measure:
    """Milliseconds that a table's network takes here for one image, at the pessimistic end, as `fit` measures."""
    from ..arch import cost
    from ..fit.candidates import Option
    from ..fit.latency import LatencyTable

    table = LatencyTable(threads=threads)

    def measured(spec: ArchSpec) -> float:
        option = Option(spec=spec, family=spec.name, alpha=1.0, precision=precision, cost=cost(spec), promise=0.0)
        return table.confirm(option).high_ms

    return measured
