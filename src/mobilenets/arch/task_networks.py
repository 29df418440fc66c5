"""Networks that end in a head of detection or segmentation: rows, the maps a head reads, and what all of it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from ..errors import SpecError
from .heads import Head, SSDHead, SSDLiteHead
from .layers import Layer
from .rows import BottleneckRow, ConvRow
from .spec import ArchSpec

__all__ = ["TaskCost", "TaskNetwork", "TaskTap", "task_cost"]

Size = tuple[int, int]  # height, width


class TaskTap(msgspec.Struct, frozen=True, kw_only=True):
    """Where a head reads a map: behind a row, or inside it, behind its expansion or its depthwise convolution."""

    row: int  # index in the table
    at: Literal["output", "expansion", "depthwise"] = "output"


class TaskNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and a head of detection or segmentation, for images of one size."""

    name: str
    rows: ArchSpec  # its own head and resolution are not looked at
    taps: tuple[TaskTap, ...]  # the maps that the head reads, the finest first
    head: Head
    height: int  # of the image, pixels
    width: int


class TaskCost(msgspec.Struct, frozen=True, kw_only=True):
    """What such a network costs for one image, counted as `cost` counts."""

    parameters: int
    norm_statistics: int
    mult_adds: int
    head_parameters: int  # the head's part of `parameters`
    head_mult_adds: int
    elementwise: int  # products that are none of a layer's, which V3 Tables 6 to 8 seem to count as well


def task_cost(network: TaskNetwork) -> TaskCost:
    """Count rows up to the last map that is read, and the head.

    `elementwise` is two products for each h-swish (V3 section 5.2: by the sigmoid's approximation, and by 1/6), one for
    each number that squeeze-and-excite scales, and one for each logit of a segmentation enlarged to the image.

    Raises:
        SpecError: a tap is where no row, or no such layer in it, is; or the head wants other maps.
    """
    maps: dict[tuple[int, str], tuple[int, Size]] = {}
    rows = list(_row_layers(network, maps))
    try:
        levels = [maps[tap.row, tap.at] for tap in network.taps]
    except KeyError as missing:
        raise SpecError(
            f"{network.name} reads the map {missing}",
            wanted="a row of its table, and a layer that this row has",
            do="correct its taps",
        ) from None
    channels, sizes = tuple(level[0] for level in levels), [level[1] for level in levels]
    head = []
    for entry in network.head.layers(channels):
        while entry.level >= len(sizes):
            sizes.append(_strided(sizes[-1], 2))
        layer = entry.layer
        head.append((layer, _strided(sizes[entry.level], layer.stride) if layer.on == "map" else (1, 1)))
    everything = rows + head
    return TaskCost(
        parameters=sum(layer.parameters for layer, _ in everything),
        norm_statistics=sum(2 * layer.out_channels for layer, _ in everything if layer.norm),
        mult_adds=sum(_products(layer, out) for layer, out in everything),
        head_parameters=sum(layer.parameters for layer, _ in head),
        head_mult_adds=sum(_products(layer, out) for layer, out in head),
        elementwise=_elementwise(network),
    )


def _row_layers(network: TaskNetwork, maps: dict[tuple[int, str], tuple[int, Size]]) -> Iterator[tuple[Layer, Size]]:
    """Every layer of the rows with the size of its output; `maps` gets channels and size of what can be tapped."""
    inside = {"expand": "expansion", "depthwise": "depthwise", "middle": "depthwise"}
    spec, size = network.rows, (network.height, network.width)
    last = max((tap.row for tap in network.taps), default=-1)
    channels = spec.channels
    for index, row in enumerate(spec.rows[: last + 1]):
        before = size
        for layer in row.layers(channels):
            if layer.on == "vector":
                yield layer, (1, 1)
                continue
            if layer.shrunk is not None:
                size = _strided(before, layer.shrunk)
            size = _strided(size, layer.stride)
            if layer.name in inside:
                maps[index, inside[layer.name]] = (layer.out_channels, size)
            yield layer, size
        maps[index, "output"] = (row.out, size)
        channels = row.out


def _elementwise(network: TaskNetwork) -> int:
    size, channels = (network.height, network.width), network.rows.channels
    head = network.head
    products = 0 if isinstance(head, SSDHead | SSDLiteHead) else head.classes * network.height * network.width
    last = max(tap.row for tap in network.taps)
    for row in network.rows.rows[: last + 1]:
        for layer in row.layers(channels):
            if layer.on == "map":
                size = _strided(size, layer.stride)
            pixels = size[0] * size[1]
            if layer.name == "squeeze":
                products += layer.in_channels * pixels
            if isinstance(row, BottleneckRow | ConvRow) and row.act == "hard_swish":
                products += 2 * layer.out_channels * pixels if layer.name in ("conv", "expand", "depthwise") else 0
        channels = row.out
    return products


def _strided(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def _products(layer: Layer, out: Size) -> int:
    pixels = out[0] * out[1]
    if layer.kind in ("norm", "scale"):
        return 0
    if layer.kind == "attention":
        height, width = _strided(out, layer.keys_stride)
        return pixels * height * width * (layer.in_channels + layer.out_channels)
    return layer.weights * pixels
