"""Static int8 of an ONNX model, by ONNX Runtime's quantiser."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError
from .onnx_graph import INPUT_NAME

__all__ = ["quantize_onnx"]

CALIBRATION_BATCH = 16

# Left in float32: ONNX Runtime multiplies and adds bytes per channel one by one, 2 ms for an image of 224 pixels, where
# all of V3-Small takes 1.4.
NORMALISING_NODES: Final = ("input.scaled", "input.normalised")


def quantize_onnx(model: bytes, calibration: NDArray[np.uint8]) -> bytes:
    """An int8 model: QDQ nodes, weights int8 per output channel, activations uint8 with min-max ranges.

    Jacob et al. 2018 (arXiv:1712.05877) and Krishnamoorthi 2018 (arXiv:1806.08342, section 3.1): depthwise filters
    differ so much from channel to channel that one scale for all of them ruins a MobileNet.

    Args:
        model: a float32 ONNX model that takes pixels.
        calibration: uint8 (N, R, R, C).

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtraError("onnx", extra="export") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
        def __init__(self) -> None:
            starts = range(0, len(calibration), CALIBRATION_BATCH)
            self._batches = iter({INPUT_NAME: np.array(calibration[i : i + CALIBRATION_BATCH])} for i in starts)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own deprecations
        root.setLevel(logging.ERROR)  # it advises on the root logger what is done here already
        try:
            source, ready, made = (Path(folder) / name for name in ("source.onnx", "ready.onnx", "int8.onnx"))
            source.write_bytes(model)
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(ready),
                str(made),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                nodes_to_exclude=list(NORMALISING_NODES),
            )
            return made.read_bytes()
        finally:
            root.setLevel(level)
