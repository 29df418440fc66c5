"""The narrower network that a choice of channels makes of a wide one: another table, and tensors cut to match."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec, Row
from ..bundle import Tensors
from ..errors import FileFormatError, SpecError, UnknownNameError
from .widths import Width, axes, widths

__all__ = ["Kept", "Selection", "cut", "narrowed", "selections"]

Kept: TypeAlias = Mapping[str, Sequence[int] | NDArray[np.intp]]  # width's name -> which of its units stay, in order
Selection: TypeAlias = tuple[NDArray[np.intp] | None, ...]  # indices for each axis; None: all of it, as it is


def cut(spec: ArchSpec, tensors: Tensors, kept: Kept) -> tuple[ArchSpec, dict[str, NDArray[np.float32]]]:
    """Keep some channels of a network and drop the others.

    The tensors are index selections of those given, under the same names.

    Args:
        spec: the wide table.
        tensors: of its network.
        kept: for each width by its name (see `widths`), the indices that stay, distinct and in the order in which they
            will stand. A width that is not named stays whole.

    Returns:
        The narrow table, with name and paper of the wide one, and its tensors.

    Raises:
        UnknownNameError: the table has no such width.
        SpecError: an index is out of range or given twice, or none is left.
        FileFormatError: the tensors are not those of the table.
    """
    chosen = selections(spec, kept)
    _check_tensors(spec, tensors)
    return narrowed(spec, kept), {name: _taken(tensors[name], selection) for name, selection in chosen.items()}


def selections(spec: ArchSpec, kept: Kept) -> dict[str, Selection]:
    """What `cut` takes of every tensor, by its name: indices along each axis, None where an axis stays as it is.

    Raises:
        UnknownNameError: the table has no such width.
        SpecError: an index is out of range or given twice, or none is left.
    """
    known = {width.name: width for width in widths(spec)}
    units = _checked_all(spec, kept)
    found: dict[str, Selection] = {}
    for tensor, own in axes(spec).items():
        selection: list[NDArray[np.intp] | None] = []
        for axis in own:
            if not any(factor in units for factor in axis if isinstance(factor, str)):
                selection.append(None)
                continue
            lengths = [factor if isinstance(factor, int) else known[factor].size for factor in axis]
            grid = np.arange(math.prod(lengths), dtype=np.intp).reshape(lengths)
            for number, factor in enumerate(axis):
                if isinstance(factor, str) and factor in units:
                    grid = np.take(grid, units[factor], axis=number)
            selection.append(grid.reshape(-1))
        found[tensor] = tuple(selection)
    return found


def narrowed(spec: ArchSpec, kept: Kept) -> ArchSpec:
    """The table that `cut` makes.

    A row that did not add its input to its output does not begin to where the widths now happen to agree: it gets
    `shortcut` False.

    Raises:
        UnknownNameError: the table has no such width.
        SpecError: an index is out of range or given twice, or none is left.
    """
    sizes = {name: len(units) for name, units in _checked_all(spec, kept).items()}
    changes: dict[int, dict[str, Any]] = {}
    head = spec.head
    for width in widths(spec):
        if width.name not in sizes:
            continue
        for path in width.fields:
            if path == "head.hidden":
                head = msgspec.structs.replace(head, hidden=sizes[width.name])
                continue
            _, index, field = path.split(".")
            changes.setdefault(int(index), {})[field] = sizes[width.name]
    rows: list[Row] = []
    channels = spec.channels
    for placed in spec.placed():
        row = msgspec.structs.replace(placed.row, **changes.get(placed.index, {}))
        if row.residual(channels) and not placed.row.residual(placed.in_channels):
            row = msgspec.structs.replace(row, shortcut=False)
        rows.append(row)
        channels = row.out
    return msgspec.structs.replace(spec, rows=tuple(rows), head=head)


def _taken(tensor: NDArray[np.float32], selection: Selection) -> NDArray[np.float32]:
    for axis, indices in enumerate(selection):
        if indices is not None:
            tensor = np.take(tensor, indices, axis=axis)
    return np.ascontiguousarray(tensor)


def _checked_all(spec: ArchSpec, kept: Kept) -> dict[str, NDArray[np.intp]]:
    known = {width.name: width for width in widths(spec)}
    for name in kept:
        if name not in known:
            raise UnknownNameError("width", name, known=known)
    return {name: _checked(known[name], indices) for name, indices in kept.items()}


def _checked(width: Width, indices: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
    units = np.asarray(indices)
    fine = units.ndim == 1 and len(units) > 0 and np.issubdtype(units.dtype, np.integer)
    if fine:
        fine = bool(units.min() >= 0 and units.max() < width.size and len(np.unique(units)) == len(units))
    if not fine:
        raise SpecError(
            f"{len(units) if units.ndim else 'no'} indices for {width.name}, which has {width.size} channels",
            wanted=f"at least one, each from 0 to {width.size - 1}, none twice",
            do="give the indices that stay",
        )
    return units.astype(np.intp)


def _check_tensors(spec: ArchSpec, tensors: Tensors) -> None:
    sizes = {width.name: width.size for width in widths(spec)}
    wanted = {
        name: tuple(math.prod(f if isinstance(f, int) else sizes[f] for f in axis) for axis in own)
        for name, own in axes(spec).items()
    }
    for name in sorted(wanted.keys() | tensors.keys()):
        got = tuple(tensors[name].shape) if name in tensors else "missing"
        if got != wanted.get(name, "nothing"):
            raise FileFormatError(
                f"the tensor {name} is {got}",
                wanted=f"{wanted.get(name, 'nothing')}, as the table {spec.name} has it",
                do="give the tensors of this table's network",
            )
