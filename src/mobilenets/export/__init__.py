"""From a bundle to a file that runs without torch, held against a gate."""

from .artifact import describe, export, write_ungated
from .formats import FORMATS
from .gate import GateImages, Limits

__all__ = ["FORMATS", "GateImages", "Limits", "describe", "export", "write_ungated"]
