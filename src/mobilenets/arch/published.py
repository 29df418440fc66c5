"""Numbers that papers and reference libraries print, each with its source: what our tables are checked against."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal

import msgspec

__all__ = ["Fact", "facts"]


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published number about one network.

    `unit` is 1 for exact counts; 1e6 for "569 million", where `value` carries the digits as printed.
    `erratum` explains a number that is known not to be reproducible as printed.
    """

    model: str  # resolves with `find`
    metric: Literal["parameters", "mult_adds", "top1"]  # top1 is measured by its authors, not counted
    value: float
    unit: float
    step: float  # of the last printed digit, in units
    source: str
    erratum: str | None = None

    def agrees(self, computed: int) -> bool:
        """Whether a count prints as this number: within one step, for authors round and truncate both."""
        if self.step == 0:
            return computed == self.value * self.unit
        return abs(computed / self.unit - self.value) < self.step


@functools.cache
def facts() -> tuple[Fact, ...]:
    """All of them, in the order of their sources. Those of metric "top1" cannot be recomputed from a table."""
    text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    return tuple(msgspec.convert(json.loads(text), list[Fact]))
