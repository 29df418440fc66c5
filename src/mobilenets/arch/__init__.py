"""MobileNets as tables: rows, knobs, cost. No torch, no numpy."""

from .catalog import CATALOG, VARIANTS, NameParts, compose, find, load_spec, parts_of, split_name
from .cost import Cost, LayerCost, TypeCost, cost
from .heads import ASPPHead, LRASPPHead, RASPPHead, SSDHead, SSDLiteHead
from .knobs import (
    for_small_images,
    make_divisible,
    with_channels,
    with_classes,
    with_output_stride,
    with_resolution,
    with_width,
)
from .memory import Memory, MemoryLevel, memory
from .published import Fact, Line, Table, facts, tables
from .recount import Check, verify
from .rows import AttentionRow, BottleneckRow, ConvRow, FusedRow, Layer, Row, SeparableRow, UniversalRow
from .spec import ArchSpec, ClassifierHead, Norm, PlacedRow
from .task_networks import TaskCost, TaskNetwork, TaskTap, task_cost
from .variants import deeper, full_convolutions, reduced_tail, shallow

__all__ = [
    "CATALOG",
    "VARIANTS",
    "ASPPHead",
    "ArchSpec",
    "AttentionRow",
    "BottleneckRow",
    "Check",
    "ClassifierHead",
    "ConvRow",
    "Cost",
    "Fact",
    "FusedRow",
    "LRASPPHead",
    "Layer",
    "LayerCost",
    "Line",
    "Memory",
    "MemoryLevel",
    "NameParts",
    "Norm",
    "PlacedRow",
    "RASPPHead",
    "Row",
    "SSDHead",
    "SSDLiteHead",
    "SeparableRow",
    "Table",
    "TaskCost",
    "TaskNetwork",
    "TaskTap",
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
    "memory",
    "parts_of",
    "reduced_tail",
    "shallow",
    "split_name",
    "tables",
    "task_cost",
    "verify",
    "with_channels",
    "with_classes",
    "with_output_stride",
    "with_resolution",
    "with_width",
]
