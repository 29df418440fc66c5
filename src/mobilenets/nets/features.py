"""Feature maps of a network, for the heads of detection and segmentation to stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arch.knobs import OutputStride, with_output_stride
from ..arch.rows import BottleneckRow, ConvRow, UniversalRow
from ..arch.spec import ArchSpec, PlacedRow
from ..errors import SpecError
from .builders import BottleneckRowModule, UniversalRowModule, build_row
from .network import initialise, load_tensors

__all__ = ["Features", "Level", "RowTap", "Tap", "Trained", "features", "levels"]

# Where in a row a map is read: behind the row, behind the expansion of a bottleneck, or behind its depthwise layer and
# before squeeze-and-excite (TF-slim's `depthwise_output`).
Tap = Literal["output", "expansion", "depthwise"]


class Trained(Protocol):
    """A network with its tensors; a `Bundle` is one."""

    @property
    def spec(self) -> ArchSpec:
        """Its table."""

    @property
    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Its tensors, by their names in the network's state dict."""


@dataclass(frozen=True)
class RowTap:
    """A map by its row, for heads that do not read the last one of a stride."""

    row: int  # index in the table
    tap: Tap = "output"


@dataclass(frozen=True)
class Level:
    """One feature map, known from the table before anything runs."""

    reduction: int  # input pixels per pixel of the map, per side; sizes are rounded up
    channels: int
    row: int  # index in the table of the row it comes from
    tap: Tap


class Features(nn.Module):
    """The rows of a table up to its last wanted map. Made by `features`.

    Its state dict is that of the whole network without the rows behind the last map and without the head.
    """

    def __init__(self, spec: ArchSpec, wanted: tuple[Level, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.levels = wanted
        last = max(level.row for level in wanted)
        self.rows = nn.ModuleList(
            build_row(p.row, p.in_channels, norm=spec.norm, padding=spec.padding)
            for p in spec.placed()
            if p.index <= last
        )
        self._taps: dict[tuple[int, str], int] = {(level.row, level.tap): level.reduction for level in wanted}

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the map at every stride that was asked for, in the order of asking."""
        return {level.reduction: level.channels for level in self.levels}

    def forward(self, inputs: Tensor) -> dict[int, Tensor]:
        """Normalised images (N, C, H, W) to {stride: (N, channels, H / stride, W / stride)}, sizes rounded up.

        H and W may be any, also other than the table's resolution.
        """
        maps: dict[int, Tensor] = {}
        value = inputs
        for index, row in enumerate(self.rows):
            inside: dict[str, Tensor] = {}
            if isinstance(row, BottleneckRowModule | UniversalRowModule):
                value, inside = row.with_taps(value)
            else:
                value = row(value)
            for tap, found in (*inside.items(), ("output", value)):
                if (index, tap) in self._taps:
                    maps[self._taps[index, tap]] = found
        return {level.reduction: maps[level.reduction] for level in self.levels}


def features(
    source: ArchSpec | Trained,
    *,
    strides: Sequence[int | RowTap],
    output_stride: OutputStride = 32,
    tap: Tap = "output",
    final_conv: bool = True,
) -> Features:
    """The feature maps of a network at some strides, as a torch module that can be trained.

    Args:
        source: a table, for fresh weights from torch's global random state; or a bundle, for its weights.
        strides: which maps, as input pixels per pixel of the map; or as a `RowTap`, where a head reads another row
            than the last of a stride.
        output_stride: where the map is held and later kernels are dilated (`arch.with_output_stride`).
        tap: "output": the last row's output at each stride. "expansion": at each stride that another follows, the
            expansion of the row that strides on, as SSDLite reads V2 and V3 (V2 section 6.2; V3 section 6.3, where
            it is bottleneck 13 of Large and 9 of Small).
        final_conv: whether the last map is behind the 1x1 convolution that widens it for the classifier. DeepLab on
            V2 stands before it (V2 section 6.3).

    Returns:
        `channels` and `levels` tell each map before anything runs; calling it gives {stride: map}.

    Raises:
        SpecError: the table has no map at a stride, no such tap in a row, two maps of one stride were asked for, or
            output_stride is not 8, 16 or 32.
        FileFormatError: the tensors do not fit the table.
    """
    table = source if isinstance(source, ArchSpec) else source.spec
    held = with_output_stride(table, output_stride)
    network = Features(held, levels(held, strides=strides, tap=tap, final_conv=final_conv))
    if isinstance(source, ArchSpec):
        initialise(network)
    else:
        own = tuple(f"rows.{index}." for index in range(len(network.rows)))
        load_tensors(network, {k: v for k, v in source.tensors.items() if k.startswith(own)})
    return network


def levels(
    spec: ArchSpec, *, strides: Sequence[int | RowTap], tap: Tap = "output", final_conv: bool = True
) -> tuple[Level, ...]:
    """Which maps `features` gives, from the table alone.

    Raises:
        SpecError: as `features` does.
    """
    if tap not in ("output", "expansion"):
        raise SpecError(f"tap is {tap!r}", wanted="'output' or 'expansion'", do="choose one of these")
    placed = list(spec.placed())
    if not final_conv:
        while isinstance(placed[-1].row, ConvRow) and placed[-1].row.kernel == 1 and len(placed) > 1:
            placed.pop()
    last = {p.reduction: p for p in placed}
    found: list[Level] = []
    for wanted in strides:
        if isinstance(wanted, RowTap):
            if not 0 <= wanted.row < len(placed):
                raise SpecError(
                    f"row {wanted.row} of {spec.name}", wanted=f"a row from 0 to {len(placed) - 1}", do="count from 0"
                )
            found.append(_level(spec, placed[wanted.row], wanted.tap))
            continue
        if wanted not in last:
            raise SpecError(
                f"{spec.name} has no map at stride {wanted}",
                wanted="one of " + ", ".join(str(known) for known in last),
                do="ask for one of these, or for another output_stride",
            )
        at = last[wanted]
        if tap == "output" or at is placed[-1]:
            found.append(_level(spec, at, "output"))
            continue
        level = _level(spec, placed[at.index + 1], "expansion")
        if level.reduction != wanted:  # a universal row without a middle strides before it expands
            raise _no_tap(spec, at.index + 1, "expansion", reduction=wanted)
        found.append(level)
    if len({level.reduction for level in found}) != len(strides) or not strides:
        raise SpecError(
            f"strides are {[level.reduction for level in found]}",
            wanted="at least one, each once",
            do="name one map for each stride",
        )
    return tuple(found)


def _level(spec: ArchSpec, placed: PlacedRow, tap: Tap) -> Level:
    """The map at a tap of a row."""
    row, index, reduction = placed.row, placed.index, placed.reduction
    if tap == "output":
        return Level(reduction=reduction, channels=row.out, row=index, tap=tap)
    if isinstance(row, BottleneckRow):
        if tap == "depthwise":
            return Level(reduction=reduction, channels=row.width(placed.in_channels), row=index, tap=tap)
        if tap == "expansion" and row.expanded is not None:
            return Level(reduction=reduction // row.stride, channels=row.expanded, row=index, tap=tap)
    elif isinstance(row, UniversalRow):
        middle = row.middle_kernel is not None
        if tap == "depthwise" and middle:
            return Level(reduction=reduction, channels=row.expanded, row=index, tap=tap)
        if tap == "expansion":
            before = reduction // row.stride if middle else reduction
            return Level(reduction=before, channels=row.expanded, row=index, tap=tap)
    raise _no_tap(spec, index, tap, reduction=reduction // row.stride if tap == "expansion" else reduction)


def _no_tap(spec: ArchSpec, index: int, tap: Tap, *, reduction: int) -> SpecError:
    return SpecError(
        f"row {index} of {spec.name} has no {tap} at stride {reduction}",
        wanted="a bottleneck that expands before it strides" if tap == "expansion" else "a bottleneck",
        do='use tap "output" there',
    )
