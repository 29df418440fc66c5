"""From a bundle to a file that runs without torch, held against a gate."""

from .artifact import describe, export, maker_of, write_ungated
from .formats import FORMATS
from .gate import GateImages, Limits
from .quantize import Calibrate, Quantized
from .quantized import export_int8

__all__ = [
    "FORMATS",
    "Calibrate",
    "GateImages",
    "Limits",
    "Quantized",
    "describe",
    "export",
    "export_int8",
    "maker_of",
    "write_ungated",
]
