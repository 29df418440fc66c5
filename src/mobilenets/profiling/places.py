"""From the names of an engine's operators to the parts of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from .records import OperatorTime

__all__ = ["SQUEEZE_EXCITE", "part_of", "placed"]

# `export.onnx_graph` names nodes after the layers of the table, and engines keep the name, or begin with it, when they
# fuse or rearrange.
_ROW: Final = re.compile(r"(rows\.\d+)\.")
_WHOLE: Final = {"input": "input", "head": "head", "logits": "head"}
SQUEEZE_EXCITE: Final = ".excite"  # in the names of such operators


def part_of(names: Iterable[str]) -> str:
    """The part that the first telling name says: "rows.3", "input", "head"; "" where none tells.

    Args:
        names: of the operator, and then of what was fused into it.
    """
    for name in names:
        row = _ROW.match(name)
        if row is not None:
            return row[1]
        first = re.split(r"[./_]", name, maxsplit=1)[0]
        if first in _WHOLE:
            return _WHOLE[first]
    return ""


def placed(operators: Sequence[OperatorTime]) -> tuple[OperatorTime, ...]:
    """The operators, those without a telling name given to the part they ran in.

    An engine's own operators (ReorderInput and the like) belong to a row if what ran before and what ran after does.
    What stands between two rows belongs to neither, and what stands before all of them to the input.
    """
    before = [part or "input" for part in _nearest(operators)]
    after = _nearest(operators[::-1])[::-1]
    return tuple(
        msgspec.structs.replace(each, part=one) if not each.part and (one == other or one == "input") else each
        for each, one, other in zip(operators, before, after, strict=True)
    )


def _nearest(operators: Sequence[OperatorTime]) -> list[str]:
    """For each operator the last part that was named up to it."""
    found, last = [], ""
    for each in operators:
        last = each.part or last
        found.append(last)
    return found
