"""Numbers and tables that papers and libraries print, each with its source: what our tables are checked against."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Literal, TypeAlias

import msgspec

__all__ = ["Cell", "Fact", "Line", "Metric", "Reading", "Table", "facts", "tables"]

FILES = ("v1.json", "v2.json", "v3.json", "v4.json", "libraries.json")

Metric = Literal[
    "parameters",  # trainable
    "norm_statistics",  # running means and variances
    "parameters_and_statistics",  # both, which is what Keras calls total
    "parameters_without_norms",  # weights and biases
    "parameters_folded",  # each norm folded into its convolution: one bias a channel is left of it
    "variables_without_scale",  # three numbers a channel of every norm: shift, mean and variance
    "weights",  # without biases, too
    "weights_share",
    "mult_adds",
    "mult_adds_share",
    "mult_adds_and_elementwise",  # products of h-swish, squeeze-and-excite and enlarged logits as well
    "layer_mult_adds",  # of convolutions and linear layers, without the matrix products of an attention
    "widest_channels",  # V2 Table 3
    "memory",  # V2 Table 3, bytes of 16-bit activations
    "top1",  # ImageNet per cent; measured by its authors, so no table tells it
]
Cell: TypeAlias = str | int | bool | None


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another meaning under which a number can be counted after all."""

    metric: Metric
    unit: float
    part: str = ""


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published number about one network.

    `unit` is 1 for exact counts, 1e6 for "569 million", 0.01 for per cent. `erratum` explains a number that is not
    what the network counts to; `counted` is what it does count to, so that an erratum hides nothing else.
    """

    model: str  # resolves with `published_networks.resolve`
    metric: Metric
    printed: str  # with its digits: "4.2", "4.20"
    unit: float = 1
    part: str = ""  # of the network: a kind of layer, "layer 3", "rows", "head", "56x56"; empty: all of it
    step: float | None = None  # of the last digit that means something, where round figures say more: "800" of 803
    erratum: str | None = None
    counted: float | None = None
    reading: Reading | None = None  # the meaning that the erratum speaks of, which is checked as well

    @property
    def value(self) -> float:
        """The number as printed, in units."""
        return float(self.printed)

    @property
    def exact(self) -> bool:
        """Whether it is printed to the last digit."""
        return self.unit == 1 and self.step is None

    def agrees(self, computed: float, *, unit: float | None = None) -> bool:
        """Whether a count prints as this number, rounded or cut off behind its last digit: authors do both."""
        if self.exact:
            return computed == self.value
        decimals = len(self.printed.partition(".")[2])
        step = 10.0**-decimals if self.step is None else self.step
        over = computed / (self.unit if unit is None else unit) - self.value
        nothing = 1e-9 * step  # what binary fractions are off by
        return -step / 2 - nothing <= over < step - nothing


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a table that says what a network is."""

    model: str
    cells: dict[str, Cell]  # by the heads of the columns
    erratum: str | None = None
    counted: dict[str, Cell] | None = None  # the cells that an erratum speaks of, as our table has them


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers and lines that stand together on a page."""

    name: str
    about: str
    source: str
    note: str | None = None  # how it is counted, and what of it is not ours
    facts: tuple[Fact, ...] = ()
    lines: tuple[Line, ...] = ()


@functools.cache
def tables() -> tuple[Table, ...]:
    """All of them: V1 to V4, then libraries."""
    folder = resources.files(__package__).joinpath("tables")
    read = (msgspec.json.decode(folder.joinpath(file).read_bytes(), type=tuple[Table, ...]) for file in FILES)
    return tuple(table for file in read for table in file)


@functools.cache
def facts() -> tuple[Fact, ...]:
    """The numbers of all tables, in their order."""
    return tuple(fact for table in tables() for fact in table.facts)
