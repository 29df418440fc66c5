"""Smaller networks from trained ones: Bundle -> Bundle."""

from .cut import Kept, cut, selections
from .widths import Place, Width, widths

__all__ = ["Kept", "Place", "Width", "cut", "selections", "widths"]
