"""What stays of the weights that training starts from: frozen rows, and rates that fall towards the stem."""

from __future__ import annotations

from torch import nn

from ..arch import ArchSpec
from ..errors import RecipeError
from ..nets import Network

__all__ = ["depth_of", "freeze_rows", "frozen_rows", "train_unfrozen"]


def frozen_rows(spec: ArchSpec, freeze: str) -> int:
    """How many rows from the stem on are frozen.

    Args:
        spec: the table.
        freeze: "none"; "backbone", all rows; a number of stages, each the rows up to the last one of a reduction; or
            "rows:5". A recipe holds nothing else.

    Raises:
        RecipeError: the table has fewer.
    """
    if freeze == "none":
        return 0
    if freeze == "backbone":
        return len(spec.rows)
    what, number = ("rows", int(freeze.removeprefix("rows:"))) if ":" in freeze else ("stages", int(freeze))
    last = {placed.reduction: placed.index for placed in spec.placed()}
    ends = list(range(len(spec.rows))) if what == "rows" else list(last.values())
    if number > len(ends):
        raise RecipeError(
            f"freeze = {freeze}: {spec.name} has {len(ends)} {what}",
            wanted=f"at most {len(ends)}",
            do="freeze fewer, or backbone for all",
        )
    return ends[number - 1] + 1


def freeze_rows(network: Network, count: int) -> None:
    """Let the first `count` rows have no gradients, in place. Autograd then records nothing of them."""
    for row in list(network.rows)[:count]:
        row.requires_grad_(requires_grad=False)


def train_unfrozen(network: Network, count: int) -> None:
    """Training mode, but for the first `count` rows: their norms answer with, and keep, the statistics they have."""
    network.train()
    for row in list(network.rows)[:count]:
        row.eval()


def depth_of(network: Network) -> dict[nn.Parameter, int]:
    """How many rows are behind each parameter, its own included: 0 in the head, 1 in the last row."""
    behind = dict.fromkeys(network.head.parameters(), 0)
    for place, row in enumerate(network.rows):
        behind |= {parameter: len(network.rows) - place for parameter in row.parameters()}
    return behind
