"""Where each of our tensors lies in another library's state dict, and what to say when it does not.

A library is one list of `Place`s for a table: our layer, and their names for it. Bringing weights in and giving them
out read the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec, PlacedRow
from ..arch.rows import AttentionRow, ConvRow, Layer, Row
from ..errors import FileFormatError

__all__ = [
    "Candidate",
    "Place",
    "Slot",
    "convert_in",
    "convert_out",
    "explain",
    "head_place",
    "misfits",
    "row_place",
    "same_table",
    "slots",
    "with_shapes",
]

SHOWN = 8  # misfits told in one message; the rest is counted
STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Place:
    """One layer of ours and of theirs, each with the norm behind it where it has one.

    A layer that is a norm or a scale alone has `ours` and `theirs` as the module itself.
    """

    layer: Layer
    ours: str  # "rows.3.expand.conv"
    theirs: str  # "blocks.1.0.conv_pw"
    our_norm: str | None = None
    their_norm: str | None = None
    their_kind: Literal["conv", "linear"] = "conv"  # a 1x1 convolution of a vector may be held as either


@dataclass(frozen=True)
class Slot:
    """One tensor of ours and of theirs, with both shapes; they hold the same numbers in the same order."""

    ours: str
    theirs: str
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]

    @property
    def counter(self) -> str | None:
        """Their name for the counter of the norm's updates, where this slot is the last of a norm."""
        norm, _, last = self.theirs.rpartition(".")
        return f"{norm}.num_batches_tracked" if last == "running_var" else None


@dataclass(frozen=True)
class Candidate:
    """What a state dict may be: a table of a family, and where its tensors would lie."""

    family: str  # a name of the catalogue
    spec: ArchSpec
    places: Sequence[Place]


def row_place(placed: PlacedRow, layer: Layer, theirs: str, their_norm: str | None = None) -> Place:
    """The place of a row's layer; `Network` names its modules after the layers."""
    row = f"rows.{placed.index}"
    if layer.kind == "norm":
        norm = f"{row}.{layer.name}"
        return Place(layer=layer, ours=norm, theirs=theirs, our_norm=norm, their_norm=theirs)
    if layer.kind == "scale":
        return Place(layer=layer, ours=f"{row}.{layer.name}", theirs=theirs)
    if layer.name in ("squeeze", "excite"):
        return Place(layer=layer, ours=f"{row}.excite.{layer.name}", theirs=theirs)
    ours = f"{row}.{layer.name}"
    our_norm = f"{ours}.norm" if layer.norm else None
    return Place(layer=layer, ours=f"{ours}.conv", theirs=theirs, our_norm=our_norm, their_norm=their_norm)


def head_place(layer: Layer, theirs: str, *, kind: Literal["conv", "linear"], their_norm: str | None = None) -> Place:
    """The place of a layer of the classifier's head."""
    our_norm = "head.norm" if layer.norm else None
    ours = f"head.{layer.name}"
    return Place(layer=layer, ours=ours, theirs=theirs, our_norm=our_norm, their_norm=their_norm, their_kind=kind)


def slots(places: Iterable[Place]) -> list[Slot]:
    """Every tensor of the places."""
    found = []
    for place in places:
        layer, channels = place.layer, (place.layer.out_channels,)
        flat = (layer.out_channels, layer.in_channels // layer.groups)
        square = (*flat, layer.kernel, layer.kernel)
        our_shape = flat if layer.kind == "linear" else square
        their_shape = flat if place.their_kind == "linear" else square
        if layer.kind == "scale":
            found.append(Slot(f"{place.ours}.gamma", f"{place.theirs}.gamma", channels, channels))
        elif layer.kind != "norm":
            found.append(Slot(f"{place.ours}.weight", f"{place.theirs}.weight", our_shape, their_shape))
        if layer.bias:
            found.append(Slot(f"{place.ours}.bias", f"{place.theirs}.bias", channels, channels))
        if place.our_norm is not None:
            found += [
                Slot(f"{place.our_norm}.{name}", f"{place.their_norm}.{name}", channels, channels)
                for name in STATISTICS
            ]
    return found


def misfits(places: Iterable[Place], tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """What does not fit, one sentence a tensor, by the names of the file; empty when everything does."""
    wanted = {slot.theirs: slot.their_shape for slot in slots(places)}
    wrong = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            wrong.append(f"{name} {tensor.shape} is left over")
        elif not _same(tensor.shape, wanted[name]):
            wrong.append(f"{name} is {tensor.shape}, wanted {wanted[name]}")
        elif not np.isfinite(tensor).all():
            wrong.append(f"{name} holds numbers that are not finite")
    return wrong


def explain(wrong: Sequence[str], *, what: str, taken_for: str, do: str) -> FileFormatError:
    """The error that lists the first misfits and counts the rest."""
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return FileFormatError(
        f"{what} was taken for {taken_for}, but {len(wrong)} tensors do not fit: " + "; ".join(wrong[:SHOWN]) + more,
        wanted=f"every tensor of {taken_for}, by name and shape, and no other",
        do=do,
    )


def convert_in(places: Iterable[Place], tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Their tensors by our names, in our shapes; `misfits` has found none."""
    return {slot.ours: tensors[slot.theirs].reshape(slot.our_shape) for slot in slots(places)}


def convert_out(places: Iterable[Place], tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Our tensors by their names, in their shapes; the counters of norms' updates, which we do not keep, are 0."""
    given: dict[str, NDArray[Any]] = {}
    for slot in slots(places):
        given[slot.theirs] = np.ascontiguousarray(tensors[slot.ours]).reshape(slot.their_shape)
        if slot.counter is not None:
            given[slot.counter] = np.zeros((), np.int64)
    return given


def with_shapes(spec: ArchSpec, places: Iterable[Place], tensors: Mapping[str, NDArray[Any]]) -> ArchSpec:
    """The table with the widths that the tensors have; a width whose tensor is missing stays as it is."""
    widths: dict[str, int] = {}
    channels = spec.channels
    for place in places:
        weight = tensors.get(f"{place.theirs}.weight")
        if weight is not None and weight.ndim >= 2:
            widths[place.ours] = weight.shape[0]
            if place.ours == "rows.0.conv.conv":
                channels = weight.shape[1]
    rows: list[Row] = []
    for index, row in enumerate(spec.rows):
        at = f"rows.{index}"
        found: dict[str, int | None] = {
            "out": widths.get(f"{at}.{'conv' if isinstance(row, ConvRow) else 'project'}.conv"),
            "expanded": widths.get(f"{at}.expand.conv"),
            "squeezed": widths.get(f"{at}.excite.squeeze"),
        }
        if isinstance(row, AttentionRow):
            key, value = widths.get(f"{at}.key.conv"), widths.get(f"{at}.value.conv")
            query = widths.get(f"{at}.query.conv")
            heads = query // key if query and key and query % key == 0 else None
            found = {"out": found["out"], "key_width": key, "value_width": value, "heads": heads}
        rows.append(msgspec.structs.replace(row, **{field: width for field, width in found.items() if width}))
    head = spec.head
    for field, width in (("hidden", widths.get("head.hidden")), ("classes", widths.get("head.classifier"))):
        if width:
            head = msgspec.structs.replace(head, **{field: width})
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head, channels=channels)


def same_table(one: ArchSpec, other: ArchSpec) -> bool:
    """Whether two tables are one network up to norms and padding, whatever they are called and how ever they scale."""
    return _essence(one) == _essence(other)


def _essence(spec: ArchSpec) -> object:
    rows = tuple(msgspec.structs.replace(row, scaling="width") for row in spec.rows)
    return rows, (spec.head.hidden, spec.head.hidden_norm, spec.head.act if spec.head.hidden else None)


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Equal shapes; a linear layer and a 1x1 convolution hold the same numbers."""
    return one == other or (_flat(one) == _flat(other) and {len(one), len(other)} == {2, 4})


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape
