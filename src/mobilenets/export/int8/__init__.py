"""Static int8: what is computed in bytes, with which ranges, and how engines are kept at it."""

from .bytes import QUANTIZED, layer_steps, quantized
from .correct import corrected
from .equalize import equalized
from .prepare import Kernels, prepared
from .ranges import Range, RangeMethod, Ranges, calibrated
from .statistics import channel_means
from .trained import starting_ranges, trained_ranges

__all__ = [
    "QUANTIZED",
    "Kernels",
    "Range",
    "RangeMethod",
    "Ranges",
    "calibrated",
    "channel_means",
    "corrected",
    "equalized",
    "layer_steps",
    "prepared",
    "quantized",
    "starting_ranges",
    "trained_ranges",
]
