"""Static int8: what is computed in bytes, with which ranges, and how ONNX Runtime is kept at it."""

from .bytes import QUANTIZED, quantized
from .correct import channel_means, corrected
from .prepare import prepared
from .ranges import Range, RangeMethod, Ranges, calibrated

__all__ = [
    "QUANTIZED",
    "Range",
    "RangeMethod",
    "Ranges",
    "calibrated",
    "channel_means",
    "corrected",
    "prepared",
    "quantized",
]
