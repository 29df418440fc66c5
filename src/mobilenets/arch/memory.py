"""What must be in memory while a network runs (V2 section 5 and Table 3)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .rows import ConvRow, SeparableRow
from .spec import ArchSpec

__all__ = ["Memory", "MemoryLevel", "memory"]

BYTES = 2  # of a 16-bit activation
STREAMED = (
    4  # input pixels per pixel: finer maps need not be whole at any time, for the first layers can be run in tiles
)


class MemoryLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The widest tensor at one resolution, as V2 Table 3 has it.

    An operation belongs to the resolution of its input and counts with the wider of input and output.
    """

    size: int  # height = width, pixels; 1 behind the pooling
    channels: int
    memory: int  # bytes, 16-bit
    streamed: bool  # V2 Table 3 prints O(1): the first layers can be run in tiles


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory for the activations of one image, 16 bits each."""

    levels: tuple[MemoryLevel, ...]  # the finest first
    widest: int  # bytes of the largest tensor that is not streamed: "max" in V2 Table 3
    peak: int  # bytes: the most that an operation's input and output need together
    peak_row: int  # of that operation; len(rows) is the head


class _Operation(msgspec.Struct, frozen=True, kw_only=True):
    row: int
    in_channels: int
    in_size: int
    out_channels: int
    out_size: int


def memory(spec: ArchSpec) -> Memory:
    """Memory as V2 section 5 counts it: an operation holds its input and its output; weights are not counted.

    A block with a narrow input and output (V2's bottleneck, V4's blocks) is one operation, for the wide tensor inside
    it can be made and used up piece by piece (section 5.1). A separable row is two, for its inner tensor is as wide as
    its input. A 1x1 convolution before the pooling never has its whole output: it is pooled as it comes.
    """
    widest: dict[int, int] = {}
    reductions = {spec.resolution: 1} | {placed.out_size: placed.reduction for placed in spec.placed()}
    peak = peak_row = 0
    for step in _operations(spec):
        pooled = step.out_size == 1 < step.in_size
        at_input = step.in_channels if pooled else max(step.in_channels, step.out_channels)
        widest[step.in_size] = max(widest.get(step.in_size, 0), at_input)
        if pooled:
            widest[1] = max(widest.get(1, 0), step.out_channels)
        needed = BYTES * (step.in_channels * step.in_size**2 + step.out_channels * step.out_size**2)
        if needed > peak:
            peak, peak_row = needed, step.row
    levels = tuple(
        MemoryLevel(
            size=size,
            channels=channels,
            memory=BYTES * channels * size**2,
            streamed=size > 1 and reductions.get(size, STREAMED) < STREAMED,
        )
        for size, channels in sorted(widest.items(), reverse=True)
    )
    return Memory(
        levels=levels,
        widest=max((level.memory for level in levels if not level.streamed), default=0),
        peak=peak,
        peak_row=peak_row,
    )


def _operations(spec: ArchSpec) -> Iterator[_Operation]:
    last = len(spec.rows) - 1
    for placed in spec.placed():
        row, channels, size = placed.row, placed.in_channels, placed.in_size
        if isinstance(row, SeparableRow):  # the depthwise convolution, then the pointwise one
            yield _Operation(
                row=placed.index,
                in_channels=channels,
                in_size=size,
                out_channels=channels,
                out_size=placed.out_size,
            )
            size = placed.out_size
        ends = placed.index == last and isinstance(row, ConvRow) and row.kernel == 1 and row.stride == 1
        yield _Operation(
            row=placed.index,
            in_channels=channels,
            in_size=size,
            out_channels=row.out,
            out_size=1 if ends else placed.out_size,
        )
    for layer in spec.head.layers(spec.out_channels):
        yield _Operation(
            row=last + 1, in_channels=layer.in_channels, in_size=1, out_channels=layer.out_channels, out_size=1
        )
