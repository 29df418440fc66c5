"""From what each channel is worth to which channels stay, for a bound on what the network costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec, cost
from ..errors import BudgetError, CheckError, UsageError
from .importance import Scores
from .widths import Width, widths, wiring

__all__ = ["Allocation", "Bill", "Counted", "Limits", "allocate", "bill"]

Allocation = Literal["uniform", "global"]
Counted = Literal["mult_adds", "parameters", "size_mb"]  # what is counted from the table


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How narrow a width may become.

    Raises:
        UsageError: a value is out of range.
    """

    divisor: int = 8  # widths become multiples of this: vector units work on 8 or 16 channels at a time; 1: any width
    minimum: int = 8  # channels; a width that has fewer stays whole
    least_share: float = 0.1  # of a width that stays in any case; without, a global ranking may cut a row off

    def __post_init__(self) -> None:
        for field, ok, wanted in (
            ("divisor", self.divisor >= 1, "at least 1"),
            ("minimum", self.minimum >= 1, "at least 1"),
            ("least_share", 0 <= self.least_share <= 1, "in [0, 1]"),
        ):
            if not ok:
                raise UsageError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")

    def least(self, width: Width) -> int:
        """The fewest units that a width may keep. Of heads one may be left, whatever `minimum` says."""
        heads = width.name.endswith(".heads")
        step, minimum = self.step(width), 1 if heads else self.minimum
        wanted = max(minimum, math.ceil(self.least_share * width.size))
        return min(width.size, -(-wanted // step) * step)

    def step(self, width: Width) -> int:
        """Units that go together; heads go one by one."""
        return 1 if width.name.endswith(".heads") else self.divisor


class Term(NamedTuple):
    """A part of what a network costs: a number times the sizes of some widths, some of them more than once."""

    factor: float
    names: tuple[str, ...]

    def value(self, sizes: Mapping[str, int]) -> float:
        """Of a network with these widths."""
        return self.factor * math.prod(sizes[name] for name in self.names)


class Bill(NamedTuple):
    """What a network costs, as a sum over its layers in which every width can be changed."""

    terms: tuple[Term, ...]
    parts: Mapping[str, tuple[Term, ...]]  # the terms that a width takes part in

    def total(self, sizes: Mapping[str, int]) -> float:
        """Of a network with these widths."""
        return math.fsum(term.value(sizes) for term in self.terms)

    def saved(self, sizes: Mapping[str, int], name: str, units: int) -> float:
        """What a width with so many units fewer would save."""
        part = self.parts[name]
        fewer = {**sizes, name: sizes[name] - units}
        return math.fsum(term.value(sizes) - term.value(fewer) for term in part)

    def beside(self, name: str) -> set[str]:
        """The widths whose savings change with this one, itself among them."""
        return {name} | {other for term in self.parts[name] for other in term.names}


def bill(spec: ArchSpec, of: Counted) -> Bill:
    """What a table costs as a function of its widths; with its own widths, what `arch.cost` counts.

    Raises:
        UsageError: there is no such budget.
    """
    if of not in ("mult_adds", "parameters", "size_mb"):
        raise UsageError(f"a budget of {of!r}", wanted="mult_adds, parameters or size_mb", do="choose one of these")
    terms: list[Term] = []
    sizes = {width.name: width.size for width in widths(spec)}

    def add(amount: float, *ends: tuple[str | int, ...]) -> None:
        """An amount that grows with all factors of these axes."""
        names = tuple(factor for end in ends for factor in end if isinstance(factor, str))
        if amount:
            terms.append(Term(amount / math.prod(sizes[name] for name in names), names))

    for (_, layer, inputs, outputs), entry in zip(wiring(spec), cost(spec).layers, strict=True):
        ends = (inputs, outputs) if layer.kind not in ("depthwise", "norm", "scale") else (outputs,)
        if of == "mult_adds":
            if layer.kind == "attention":  # queries times keys, and weights times values
                pairs = entry.mult_adds / (layer.in_channels + layer.out_channels)
                add(pairs * layer.in_channels, inputs)
                add(pairs * layer.out_channels, outputs)
            else:
                add(entry.mult_adds, *ends)
            continue
        numbers = (1 if layer.bias else 0) + (2 if layer.norm else 0)
        if of == "size_mb" and layer.norm:
            numbers += 2  # running statistics
        unit = 4e-6 if of == "size_mb" else 1.0
        add(unit * layer.weights, *ends)
        add(unit * numbers * layer.out_channels, outputs)
    parts = {name: tuple(term for term in terms if name in term.names) for name in sizes}
    return Bill(tuple(terms), parts)


def allocate(
    spec: ArchSpec,
    scores: Scores,
    *,
    of: Counted,
    most: float,
    allocation: Allocation = "global",
    limits: Limits | None = None,
) -> dict[str, NDArray[np.intp]]:
    """Which units of every width stay, so that the network costs at most `most`.

    - "uniform": every width keeps the same share of its units, the most important ones.
    - "global": over and over, that step of units goes, of all widths, which loses the least for what it saves. What it
      loses is its share of the importance that its width still has, so no width is cut to its least while others are
      whole; what it saves is counted anew when a width beside it has changed.

    Args:
        spec: the table.
        scores: of all its widths.
        of: what is bounded.
        most: the bound: products, numbers, or 10^6 bytes of float32.
        allocation: how.
        limits: how narrow widths may become; None: the usual ones.

    Returns:
        Indices in ascending order, for every width that becomes narrower.

    Raises:
        BudgetError: with every width at its least it would still cost more.
        CheckError: a score is not a finite number.
        UsageError: it costs no more as it is, or there is no such allocation or budget.
    """
    bounds = Limits() if limits is None else limits
    if odd := [name for name, values in scores.items() if not np.isfinite(values).all()]:
        raise CheckError(
            f"the scores of {odd[0]} are not finite", wanted="a network that answers with numbers", do="train it anew"
        )
    known = {width.name: width for width in widths(spec)}
    sizes = {name: width.size for name, width in known.items()}
    costs = bill(spec, of)
    least = {name: bounds.least(width) for name, width in known.items()}
    _check_reach(costs, sizes, least, of=of, most=most)
    if allocation == "uniform":
        sizes = _uniform(known, costs, least, bounds, most=most)
    elif allocation == "global":
        sizes = _global(known, costs, scores, least, bounds, most=most)
    else:
        raise UsageError(f"allocation = {allocation!r}", wanted="uniform or global", do="choose one of these")
    return {
        name: np.sort(_ranked(scores[name])[width.size - sizes[name] :])
        for name, width in known.items()
        if sizes[name] < width.size
    }


def _check_reach(costs: Bill, sizes: Mapping[str, int], least: Mapping[str, int], *, of: Counted, most: float) -> None:
    whole, lowest = costs.total(sizes), costs.total(least)
    if whole <= most:
        raise UsageError(
            f"the network has {of} = {whole:.6g}",
            wanted=f"more than {most:.6g}, or nothing to do",
            do="lower the bound",
        )
    if lowest > most:
        raise BudgetError(
            f"with every width at its least, {of} is {lowest:.6g}",
            wanted=f"at most {most:.6g}",
            do="allow narrower widths (least_share, minimum, divisor), or start from a smaller network",
        )


def _uniform(
    known: Mapping[str, Width], costs: Bill, least: Mapping[str, int], limits: Limits, *, most: float
) -> dict[str, int]:
    def at(share: float) -> dict[str, int]:
        sizes = {}
        for name, width in known.items():
            step = limits.step(width)
            sizes[name] = min(width.size, max(least[name], int(share * width.size / step + 0.5) * step))
        return sizes

    low, high = 0.0, 1.0  # all are at their least at 0, which is known to do
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if costs.total(at(middle)) <= most else (low, middle)
    return at(low)


def _global(
    known: Mapping[str, Width],
    costs: Bill,
    scores: Scores,
    least: Mapping[str, int],
    limits: Limits,
    *,
    most: float,
) -> dict[str, int]:
    sizes = {name: width.size for name, width in known.items()}
    # What all units together are worth, from the least important on: the difference of two places is a step's loss.
    worth = {name: np.concatenate([[0.0], np.cumsum(np.sort(scores[name]))]) for name in known}
    prices: dict[str, tuple[float, int]] = {}  # loss per saving, units

    def price(name: str) -> tuple[float, int]:
        step = limits.step(known[name])
        units = sizes[name] % step or step  # the first step brings an odd width to a multiple
        if sizes[name] - units < least[name]:
            return math.inf, 0
        gone = known[name].size - sizes[name]
        left = float(worth[name][-1] - worth[name][gone])
        loss = float(worth[name][gone + units] - worth[name][gone]) / left if left > 0 else 0.0
        return loss / costs.saved(sizes, name, units), units

    waiting = set(known)
    while costs.total(sizes) > most:
        for name in waiting:
            prices[name] = price(name)
        chosen = min(prices, key=lambda name: (prices[name][0], name))
        _, units = prices[chosen]
        assert units  # the bound can be kept: that was looked at first
        sizes[chosen] -= units
        waiting = costs.beside(chosen)
    return sizes


def _ranked(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Units from the least important to the most; of equals the later ones are less important."""
    return np.lexsort((-np.arange(len(scores)), scores))
