"""The same network narrower, whose tensors are leading slices of the wide one's, or at another resolution."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import SpecError
from .catalog import NameParts, compose, split_name
from .knobs import with_channels, with_resolution, with_width
from .spec import ArchSpec

__all__ = ["at_resolution", "distinct_widths", "narrower", "width_of"]

STEP = 0.025  # of alpha; widths are multiples of 8, so what lies between two steps is mostly the same table


def width_of(spec: ArchSpec) -> float:
    """The width multiplier that a table has: a catalogue network's own, and 1 for every other table.

    A name alone proves nothing; the table must be the one that the name stands for.
    """
    parts = _of_catalogue(spec)
    return 1.0 if parts is None else parts.alpha


def narrower(spec: ArchSpec, alpha: float, *, resolution: int | None = None) -> ArchSpec:
    """The network of the same family with another width multiplier, and at another resolution.

    Of a catalogue network `alpha` counts from the paper's table, whatever width `spec` has, and the name is canonical:
    `mobilenet_v2_1.0_32_s8` becomes `mobilenet_v2_0.6_24_s8`. Every other table is width 1 itself. Strides stay, so
    that a weight means the same in both.

    Args:
        spec: the wide table.
        alpha: at most `width_of(spec)`.
        resolution: input side in pixels; None: as it is.

    Raises:
        SpecError: alpha is above the table's own or below 0.1, or the name cannot be made at that resolution.
    """
    own = width_of(spec)
    side = spec.resolution if resolution is None else resolution
    if alpha > own:
        raise SpecError(f"alpha is {alpha:g} for {spec.name}", wanted=f"at most {own:g}", do="choose a narrower one")
    if alpha == own and side == spec.resolution:
        return spec
    parts = _of_catalogue(spec)
    if parts is None:
        narrow = spec if alpha == own else with_width(spec, alpha)
        words = [
            spec.name if side == spec.resolution else spec.name.removesuffix(f"_{spec.resolution}"),
            *([] if alpha == own else [f"{alpha:g}"]),
            *([] if side == spec.resolution else [str(side)]),
        ]
        return msgspec.structs.replace(with_resolution(narrow, side), name="_".join(words))
    return _composed(parts, spec, alpha=alpha, resolution=side)


def at_resolution(spec: ArchSpec, resolution: int) -> ArchSpec:
    """The same network at another resolution, under the name that it has there: `mobilenet_v1_1.0_96` at 224 pixels is
    `mobilenet_v1`.

    Args:
        spec: a catalogue network or a table of one's own.
        resolution: input side in pixels.

    Raises:
        SpecError: the resolution is below 1.
    """
    try:
        return narrower(spec, width_of(spec), resolution=resolution)
    except SpecError:  # no catalogue network has its strides on so few pixels: it is a table of its own there
        return msgspec.structs.replace(with_resolution(spec, resolution), name=f"{spec.name}_{resolution}")


def distinct_widths(spec: ArchSpec, low: float, high: float) -> tuple[float, ...]:
    """Multipliers from `low` to `high` in steps of 0.025, both ends included, one for each table that differs.

    Raises:
        SpecError: `high` is above the table's own width, or `low` below 0.1.
    """
    count = round((high - low) / STEP)
    steps = [low, *(round(low + number * STEP, 3) for number in range(1, count)), high]
    return _one_for_each_table(spec, steps)


def _one_for_each_table(spec: ArchSpec, alphas: Sequence[float]) -> tuple[float, ...]:
    found = {narrower(spec, alpha).digest: alpha for alpha in alphas}  # of equal tables the last, widest alpha
    found[narrower(spec, alphas[0]).digest] = alphas[0]  # but the narrowest is what was asked for
    return tuple(sorted(found.values()))


def _of_catalogue(spec: ArchSpec) -> NameParts | None:
    """What the name says, if the table is what the name stands for."""
    parts = split_name(spec.name)
    if parts is None:
        return None
    try:
        named = _composed(parts, spec, alpha=parts.alpha, resolution=spec.resolution)
    except SpecError:
        return None
    return parts if named.digest == spec.digest else None


def _composed(parts: NameParts, spec: ArchSpec, *, alpha: float, resolution: int) -> ArchSpec:
    made = compose(parts.base, alpha=alpha, resolution=resolution, stride=parts.stride, classes=spec.head.classes)
    return msgspec.structs.replace(with_channels(made, spec.channels), norm=spec.norm, padding=spec.padding)
