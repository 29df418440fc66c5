"""Feature maps of a network, for the heads of detection and segmentation to stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arch.knobs import OutputStride, with_output_stride
from ..arch.rows import BottleneckRow, ConvRow, Row, UniversalRow
from ..arch.spec import ArchSpec, PlacedRow
from ..errors import SpecError
from .builders import BottleneckRowModule, UniversalRowModule, build_row
from .network import initialise, load_tensors

__all__ = ["Features", "Level", "Tap", "Trained", "features", "levels"]

# Where a level's map is read: behind the last row of its stride, or behind the expansion of the row that strides on.
Tap = Literal["output", "expansion"]


class Trained(Protocol):
    """A network with its tensors; a `Bundle` is one."""

    @property
    def spec(self) -> ArchSpec:
        """Its table."""

    @property
    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Its tensors, by their names in the network's state dict."""


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
        self._taps = {(level.row, level.tap): level.reduction for level in wanted}

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
            if (index, "expansion") in self._taps and isinstance(row, BottleneckRowModule | UniversalRowModule):
                value, maps[self._taps[index, "expansion"]] = row.with_expansion(value)
            else:
                value = row(value)
            if (index, "output") in self._taps:
                maps[self._taps[index, "output"]] = value
        return {level.reduction: maps[level.reduction] for level in self.levels}


def features(
    source: ArchSpec | Trained,
    *,
    strides: Sequence[int],
    output_stride: OutputStride = 32,
    tap: Tap = "output",
    final_conv: bool = True,
) -> Features:
    """The feature maps of a network at some strides, as a torch module that can be trained.

    Args:
        source: a table, for fresh weights from torch's global random state; or a bundle, for its weights.
        strides: which maps, as input pixels per pixel of the map.
        output_stride: where the map is held and later kernels are dilated (`arch.with_output_stride`).
        tap: "output": the last row's output at each stride. "expansion": for each stride that another follows, the
            expansion of the row that strides on, as SSDLite reads V2 and V3 (V2 section 6.2; V3 section 6.3, where
            it is bottleneck 13 of Large and 9 of Small).
        final_conv: whether the last map is behind the 1x1 convolution that widens it for the classifier. DeepLab on
            V2 stands before it (V2 section 6.3).

    Returns:
        `channels` and `levels` tell each map before anything runs; calling it gives {stride: map}.

    Raises:
        SpecError: the table has no map at a stride, no expansion to tap there, or output_stride is not 8, 16 or 32.
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
    spec: ArchSpec, *, strides: Sequence[int], tap: Tap = "output", final_conv: bool = True
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
    if not strides or len(set(strides)) != len(strides):
        raise SpecError(f"strides are {tuple(strides)}", wanted="at least one, each once", do="name the maps' strides")
    found = []
    for stride in strides:
        if stride not in last:
            raise SpecError(
                f"{spec.name} has no map at stride {stride}",
                wanted="one of " + ", ".join(str(known) for known in last),
                do="ask for one of these, or for another output_stride",
            )
        at = last[stride]
        if tap == "expansion" and at is not placed[-1]:
            found.append(_expansion(spec, placed[at.index + 1]))
        else:
            found.append(Level(reduction=stride, channels=at.row.out, row=at.index, tap="output"))
    return tuple(found)


def _expansion(spec: ArchSpec, placed: PlacedRow) -> Level:
    """The expansion of a row that strides, which still has the stride before it."""
    row = placed.row
    reduction = placed.reduction // row.stride
    # A universal row without a middle convolution strides at its start, before it expands.
    if isinstance(row, BottleneckRow | UniversalRow) and row.expanded is not None:
        if isinstance(row, BottleneckRow) or row.middle_kernel is not None:
            return Level(reduction=reduction, channels=row.expanded, row=placed.index, tap="expansion")
    elif not isinstance(row, Row):
        raise SpecError(f"a row of type {type(row).__name__}", wanted="a row of arch.rows", do="add it to the taps")
    raise SpecError(
        f"row {placed.index} of {spec.name} has no expansion at stride {reduction}",
        wanted="a bottleneck that expands before it strides",
        do='use tap="output" for this table',
    )
