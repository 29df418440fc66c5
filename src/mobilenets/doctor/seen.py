"""Everything that the rules look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..records import Artifact
from .compiled import Compiled
from .front import Front
from .graph import Graph
from .records import Feeding

__all__ = ["Saturated", "Seen"]

_BYTES: Final = ("quantize", "qlinear", "integer", "qgemm")  # in the names of operators that make or read bytes


@dataclass(frozen=True)
class Saturated:
    """A range, and how much of what was seen on real images lies outside."""

    value: str
    low: float
    high: float
    below: float  # share of the numbers
    above: float
    images: int


@dataclass(frozen=True, eq=False)
class Seen:
    """A file, and what came of it.

    Args:
        path: the model file.
        graph: as it is written.
        front: what it does with its pixels; None where its input is no image.
        artifact: its record; None for somebody else's file.
        digests: SHA-256 of the file and of what belongs to it, by the names that its record has.
        compiled: what ONNX Runtime makes of it; None for other formats.
        feeding: its answers to labelled images; None without images.
        saturated: its ranges, on those images.
    """

    path: Path
    graph: Graph
    front: Front | None
    artifact: Artifact | None
    digests: Mapping[str, str]
    compiled: Compiled | None = None
    feeding: Feeding | None = None
    saturated: tuple[Saturated, ...] = field(default=())

    @property
    def is_int8(self) -> bool:
        """Whether it says, or shows, that it is quantised."""
        quantised = any(word in node.op.lower() for node in self.graph.nodes for word in _BYTES)
        return quantised or (self.artifact is not None and self.artifact.precision == "int8")
