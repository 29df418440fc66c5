"""torchvision's MobileNets, V2 and V3: names of tensors, widths, and a state dict as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from ..arch import CATALOG, ArchSpec, BottleneckRow, ConvRow, PlacedRow, make_divisible
from ..arch.knobs import squeezed_width
from ..arch.rows import Row
from ..arch.spec import Norm
from ..errors import SpecError
from .places import Candidate, Place, head_place, row_place, with_shapes

__all__ = ["FAMILIES", "places", "shaped_candidates", "torchvision_spec"]

NORMS: Mapping[str, Norm] = {  # torchvision 0.29: V3 sets its own, V2 leaves torch's
    "mobilenet_v2": Norm(eps=1e-5, momentum=0.1),
    "mobilenet_v3_large": Norm(eps=1e-3, momentum=0.01),
    "mobilenet_v3_small": Norm(eps=1e-3, momentum=0.01),
}
FAMILIES = tuple(NORMS)
TAIL = 3  # rows of the last stage, which the reduced tail halves
LAST_RATIO = 6  # V3's last convolution has six times the channels of the row before it


def places(spec: ArchSpec, family: str) -> list[Place]:
    """Where the table's tensors lie in torchvision's model of that family.

    Raises:
        SpecError: a row of a type that torchvision has not.
    """
    found: list[Place] = []
    for placed in spec.placed():
        found += _row(placed, family)
    first, last = ("classifier.0", "classifier.3") if spec.head.hidden is not None else ("", "classifier.1")
    for layer in spec.head.layers(spec.out_channels):
        found.append(head_place(layer, first if layer.name == "hidden" else last, kind="linear"))
    return found


def shaped_candidates(tensors: Mapping[str, NDArray[Any]]) -> Iterator[Candidate]:
    """Each family, with the widths of the state dict."""
    for family in FAMILIES:
        spec = msgspec.structs.replace(CATALOG[family](), norm=NORMS[family])
        spec = with_shapes(spec, places(spec, family), tensors)
        yield Candidate(family=family, spec=spec, places=places(spec, family))


def torchvision_spec(family: str, *, alpha: float = 1.0, reduced_tail: bool = False) -> ArchSpec:
    """What torchvision builds for `width_mult` and `reduced_tail`; only V3 has a tail to reduce.

    Its V3 scales expanded widths themselves and the hidden layer too, which is not the paper's rule; its V2 is the
    paper's.
    """
    spec = msgspec.structs.replace(CATALOG[family](), norm=NORMS[family])
    tail = len(spec.rows) - 1 - TAIL
    rows: list[Row] = []
    inputs = spec.channels
    for placed in spec.placed():
        row, half = placed.row, 2 if reduced_tail and placed.index >= tail else 1
        if isinstance(row, BottleneckRow):
            out = make_divisible(row.out // half * alpha)
            expanded = row.expanded
            if expanded is not None and family == "mobilenet_v2":
                expanded = round(inputs * expanded / placed.in_channels)
            elif expanded is not None:
                # The first row of the tail still reads, and expands, what comes before it.
                expanded = make_divisible(expanded // (half if placed.index > tail else 1) * alpha)
            width = inputs if expanded is None else expanded
            squeezed = None if row.squeezed is None else squeezed_width(width)
            rows.append(msgspec.structs.replace(row, out=out, expanded=expanded, squeezed=squeezed))
        elif placed.index == 0:
            rows.append(msgspec.structs.replace(row, out=make_divisible(row.out * alpha)))
        elif family == "mobilenet_v2":
            rows.append(msgspec.structs.replace(row, out=make_divisible(row.out * max(1.0, alpha))))
        else:
            rows.append(msgspec.structs.replace(row, out=LAST_RATIO * inputs))
        inputs = rows[-1].out
    head = spec.head
    if head.hidden is not None:
        hidden = make_divisible(head.hidden // (2 if reduced_tail else 1) * alpha)
        head = msgspec.structs.replace(head, hidden=hidden)
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head)


def _row(placed: PlacedRow, family: str) -> Iterator[Place]:
    at, row = f"features.{placed.index}", placed.row
    layers = {layer.name: layer for layer in row.layers(placed.in_channels)}
    if isinstance(row, ConvRow):
        yield row_place(placed, layers["conv"], f"{at}.0", f"{at}.1")
    elif isinstance(row, BottleneckRow) and family == "mobilenet_v2":
        place = 0
        for name in ("expand", "depthwise"):
            if name in layers:
                yield row_place(placed, layers[name], f"{at}.conv.{place}.0", f"{at}.conv.{place}.1")
                place += 1
        yield row_place(placed, layers["project"], f"{at}.conv.{place}", f"{at}.conv.{place + 1}")
    elif isinstance(row, BottleneckRow):
        place = 0
        for name in ("expand", "depthwise", "squeeze", "project"):
            if name not in layers:
                continue
            inside = f"{at}.block.{place}"
            if name == "squeeze":
                yield row_place(placed, layers["squeeze"], f"{inside}.fc1")
                yield row_place(placed, layers["excite"], f"{inside}.fc2")
            else:
                yield row_place(placed, layers[name], f"{inside}.0", f"{inside}.1")
            place += 1
    else:
        raise SpecError(
            f"row {placed.index} is of type {type(row).__name__}",
            wanted="the plain convolutions and bottlenecks of torchvision's V2 and V3",
            do="choose another library",
        )
