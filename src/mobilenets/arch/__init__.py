"""MobileNets as tables: rows, knobs, cost. No torch, no numpy."""

from .catalog import CATALOG, VARIANTS, NameParts, compose, find, load_spec, split_name
from .cost import Cost, LayerCost, TypeCost, cost
from .knobs import (
    for_small_images,
    make_divisible,
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
from .variants import deeper, full_convolutions, reduced_tail, shallow

__all__ = [
    "CATALOG",
    "VARIANTS",
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
    "deeper",
    "facts",
    "find",
    "for_small_images",
    "full_convolutions",
    "load_spec",
    "make_divisible",
    "reduced_tail",
    "shallow",
    "split_name",
    "verify",
    "with_channels",
    "with_classes",
    "with_output_stride",
    "with_resolution",
    "with_width",
]
