"""What a bundle can be exported to. The fourth of the five extension tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import UsageError
from ..records import Format, Precision
from .onnx_graph import to_onnx
from .quantize import quantize_onnx

__all__ = ["FORMATS", "Calibration", "Maker"]

Calibration = NDArray[np.uint8]  # (N, R, R, C), prepared training images
Maker = Callable[[Bundle, Calibration | None], bytes]


def _onnx_fp32(bundle: Bundle, calibration: Calibration | None) -> bytes:
    """Float32; `calibration` is not looked at."""
    content: bytes = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess).SerializeToString()
    return content


def _onnx_int8(bundle: Bundle, calibration: Calibration | None) -> bytes:
    """Static int8, per-channel weights.

    Raises:
        UsageError: there are no calibration images.
    """
    if calibration is None or not len(calibration):
        raise UsageError(
            "int8 without calibration images",
            wanted="some hundred prepared training images, from which value ranges are read",
            do="give the data set the model was trained on (--data)",
        )
    return quantize_onnx(_onnx_fp32(bundle, None), calibration)


FORMATS: Mapping[tuple[Format, Precision], Maker] = MappingProxyType(
    {
        ("onnx", "fp32"): _onnx_fp32,
        ("onnx", "int8"): _onnx_int8,
    }
)
