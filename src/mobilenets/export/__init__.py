"""From a bundle to a file that runs without torch, held against a gate."""

from .artifact import describe, export, maker_of, write_ungated
from .formats import FORMATS
from .gate import GateImages, Limits

__all__ = ["FORMATS", "GateImages", "Limits", "describe", "export", "maker_of", "write_ungated"]
