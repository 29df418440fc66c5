"""Every published number and line recomputed from our tables and compared."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import zip_longest
from typing import Literal

import msgspec

from ..errors import SpecError
from .cost import cost
from .lines import lines
from .memory import memory
from .published import Cell, Fact, Line, Metric, Table, tables
from .published_networks import resolve
from .spec import ArchSpec
from .task_networks import TaskNetwork, task_cost

__all__ = ["Check", "Verdict", "verify"]

# "equal": an exact number, or every cell of a line; "prints as": a rounded number that the count prints as; "erratum":
# known not to be what the network counts to, with the reason; "mismatch": none of these.
Verdict = Literal["equal", "prints as", "erratum", "mismatch"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One published number, or one line of a table, and what our table has."""

    table: str
    source: str
    about: Fact | Line
    computed: float | dict[str, Cell] | None  # a number for a number; a line for a line; None: we have no such line
    verdict: Verdict

    @property
    def metric(self) -> str:
        """What is compared; "row" for a line."""
        return self.about.metric if isinstance(self.about, Fact) else "row"


def verify() -> tuple[Check, ...]:
    """Recount everything that a table decides, page by page.

    An erratum must be one: a number that agrees after all, or that differs from what its note says we count to, is a
    mismatch.
    """
    return tuple(check for table in tables() for check in _checks(table))


def _checks(table: Table) -> Iterator[Check]:
    for fact in table.facts:
        if fact.metric != "top1":  # measured by its authors; no table tells it
            number = _counted(fact)
            verdict = _verdict_of_number(fact, number)
            yield Check(table=table.name, source=table.source, about=fact, computed=number, verdict=verdict)
    if not table.lines:
        return
    model = table.lines[0].model
    network = resolve(model)
    ours = lines(network) if isinstance(network, ArchSpec) else ()
    for line, cells in zip_longest(table.lines, ours):
        printed = Line(model=model, cells={}) if line is None else line  # a line too many of ours is a mismatch
        verdict = _verdict_of_line(printed, cells)
        yield Check(table=table.name, source=table.source, about=printed, computed=cells, verdict=verdict)


def _verdict_of_number(fact: Fact, computed: float) -> Verdict:
    agrees = fact.agrees(computed)
    if fact.erratum is None:
        return ("equal" if fact.exact else "prints as") if agrees else "mismatch"
    explained = True
    if fact.reading is not None:
        read = msgspec.structs.replace(fact, metric=fact.reading.metric, part=fact.reading.part)
        explained = fact.agrees(_counted(read), unit=fact.reading.unit)
    return "erratum" if explained and not agrees and computed == fact.counted else "mismatch"


def _verdict_of_line(line: Line, computed: dict[str, Cell] | None) -> Verdict:
    if computed is None or not line.cells:
        return "mismatch"
    different = {
        head: computed.get(head)
        for head in line.cells | computed
        if head not in line.cells or not _same(line.cells[head], computed.get(head))
    }
    if line.erratum is None:
        return "mismatch" if different else "equal"
    return "erratum" if different == line.counted else "mismatch"


def _same(printed: Cell, computed: Cell) -> bool:
    """Equal, or the page leaves the kernel out and so says nothing about it ("conv2d" for "conv2d, 3x3")."""
    if printed == computed:
        return isinstance(printed, bool) == isinstance(computed, bool)  # to Python, 1 is True
    return isinstance(printed, str) and isinstance(computed, str) and computed.startswith(f"{printed}, ")


def _counted(fact: Fact) -> float:
    network = resolve(fact.model)
    if isinstance(network, TaskNetwork):
        return _of_task_network(network, fact)
    if fact.metric in ("widest_channels", "memory"):
        return _of_memory(network, fact)
    return _of_network(network, fact)


def _of_network(spec: ArchSpec, fact: Fact) -> float:
    counted, metric, part = _cost(spec), fact.metric, fact.part
    layers = counted.layers
    if metric in ("weights_share", "mult_adds_share"):
        whole = [entry.layer.weights if metric == "weights_share" else entry.mult_adds for entry in layers]
        of_kind = [number for number, entry in zip(whole, layers, strict=True) if entry.layer.kind == part]
        return sum(of_kind) / sum(whole)
    if metric == "layer_mult_adds" and not part:
        return counted.mult_adds - counted.attention_mult_adds
    if part == "rows" or (not part and len(spec.rows) == 1):  # V1 Table 3 is about a layer without any head
        layers = tuple(entry for entry in layers if entry.row < len(spec.rows))
    elif part.startswith("layer "):
        index = int(part.removeprefix("layer "))
        layers = layers[index : index + 1]
    elif part:
        layers = tuple(entry for entry in layers if entry.layer.kind == part)
    if metric == "weights":
        return sum(entry.layer.weights for entry in layers)
    if metric == "mult_adds":
        return sum(entry.mult_adds for entry in layers)
    if not part:
        return _of_parameters(counted.parameters, counted.norm_statistics, metric)
    raise _unknown(fact)


def _of_parameters(parameters: int, statistics: int, metric: Metric) -> float:
    """A norm has a scale and a shift, which are parameters, and a mean and a variance: as many statistics."""
    if metric == "parameters":
        return parameters
    if metric == "norm_statistics":
        return statistics
    if metric == "parameters_and_statistics":
        return parameters + statistics
    if metric == "parameters_without_norms":
        return parameters - statistics
    if metric == "parameters_folded":
        return parameters - statistics // 2
    if metric == "variables_without_scale":
        return parameters + statistics // 2
    raise SpecError(f"the metric {metric!r}", wanted="one that parameters tell", do="correct the metric of that fact")


def _of_task_network(network: TaskNetwork, fact: Fact) -> float:
    counted, metric = _task_cost(network), fact.metric
    if fact.part == "head" and metric == "parameters":
        return counted.head_parameters
    if fact.part == "head" and metric == "mult_adds":
        return counted.head_mult_adds
    if not fact.part and metric == "mult_adds":
        return counted.mult_adds
    if not fact.part and metric == "mult_adds_and_elementwise":
        return counted.mult_adds + counted.elementwise
    if not fact.part:
        return _of_parameters(counted.parameters, counted.norm_statistics, metric)
    raise _unknown(fact)


def _of_memory(spec: ArchSpec, fact: Fact) -> float:
    needed, metric = memory(spec), fact.metric
    if not fact.part and metric == "memory":
        return needed.widest
    for level in needed.levels:
        if fact.part == f"{level.size}x{level.size}":
            return level.channels if metric == "widest_channels" else level.memory
    raise _unknown(fact)


def _unknown(fact: Fact) -> SpecError:
    return SpecError(
        f"a fact about {fact.metric!r} of {fact.part or 'all'!r} of {fact.model}",
        wanted="a part that this metric can be counted of",
        do="correct that fact",
    )


_cost = functools.lru_cache(maxsize=512)(cost)
_task_cost = functools.lru_cache(maxsize=64)(task_cost)
