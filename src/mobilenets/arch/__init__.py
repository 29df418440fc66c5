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
    with_output_stride,
    with_resolution,
    with_width,
)
from .published import Fact, facts
from .recount import Check, verify
from .rows import AttentionRow, BottleneckRow, ConvRow, FusedRow, Layer, Row, SeparableRow, UniversalRow
from .spec import ArchSpec, ClassifierHead, Norm, PlacedRow

__all__ = [
    "CATALOG",
    "ArchSpec",
    "AttentionRow",
    "BottleneckRow",
    "Check",
    "ClassifierHead",
    "ConvRow",
    "Cost",
    "Fact",
    "FusedRow",
    "Layer",
    "LayerCost",
    "NameParts",
    "Norm",
    "PlacedRow",
    "Row",
    "SeparableRow",
    "TypeCost",
    "UniversalRow",
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
    "verify",
    "with_channels",
    "with_classes",
    "with_output_stride",
    "with_resolution",
    "with_width",
]
