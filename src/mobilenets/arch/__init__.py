"""MobileNets as tables: rows, knobs, cost. No torch, no numpy."""

from .catalog import CATALOG, NameParts, compose, find, load_spec, split_name
from .cost import Cost, LayerCost, TypeCost, cost
from .knobs import (
    for_small_images,
    full_convolutions,
    make_divisible,
    shallow,
    with_channels,
    with_classes,
    with_resolution,
    with_width,
)
from .published import Fact, facts
from .rows import BottleneckRow, ConvRow, Layer, Row, SeparableRow
from .spec import ArchSpec, ClassifierHead, Norm, PlacedRow

__all__ = [
    "CATALOG",
    "ArchSpec",
    "BottleneckRow",
    "ClassifierHead",
    "ConvRow",
    "Cost",
    "Fact",
    "Layer",
    "LayerCost",
    "NameParts",
    "Norm",
    "PlacedRow",
    "Row",
    "SeparableRow",
    "TypeCost",
    "compose",
    "cost",
    "facts",
    "find",
    "for_small_images",
    "full_convolutions",
    "load_spec",
    "make_divisible",
    "shallow",
    "split_name",
    "with_channels",
    "with_classes",
    "with_resolution",
    "with_width",
]
