"""Between which numbers every value of a graph lies on calibration images; and the bytes that stand for them."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtraError, UsageError
from ..onnx_graph import INPUT_NAME

__all__ = ["Range", "RangeMethod", "Ranges", "Scale", "calibrated", "quiet", "scale_of", "swish_scale"]

RangeMethod = Literal["minmax", "percentile", "entropy"]

BATCH: Final = 16
# Histograms look at every single number. A hundred images are hundreds of millions of those.
HISTOGRAM_IMAGES: Final = 96
# Of the numbers of one value, per cent, that its range holds. Of a map of 100,000 numbers, some outliers are dropped.
PERCENTILE: Final = 99.99
BINS: Final = 2048
ENTROPY_BINS: Final = 512
LEAST: Final = 1e-6  # a range is at least so wide; a value that is always zero has a scale all the same
KNEE: Final = 3.0  # hard-swish is zero up to -3, and x from 3


class Range(msgspec.Struct, frozen=True):
    """The least and the greatest number."""

    low: float
    high: float


Ranges = Mapping[str, Range]  # by the value's name


class Scale(msgspec.Struct, frozen=True):
    """What a byte q stands for: (q - zero) * step."""

    step: float
    zero: int


def calibrated(proto: Any, images: NDArray[np.uint8], *, method: RangeMethod) -> dict[str, Range]:
    """Ranges of every float value of a graph.

    "minmax" holds every number that was seen. "percentile" leaves out those beyond the 99.99th percentile, "entropy"
    what costs the histogram the least information (Migacz 2017); both look at no more than HISTOGRAM_IMAGES images.
    The methods are ONNX Runtime's.

    Args:
        proto: float32 `onnx.ModelProto` that takes pixels.
        images: prepared, uint8 (N, R, R, C).
        method: how much of what is seen is held.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        UsageError: the method is unknown.
    """
    try:
        from onnxruntime.quantization import CalibrationMethod, calibrate
    except ImportError as error:
        raise MissingExtraError("onnx", extra="export") from error
    options: dict[str, Any] = {}
    if method == "minmax":
        kind = CalibrationMethod.MinMax
    elif method == "percentile":
        kind, options = CalibrationMethod.Percentile, {"num_bins": BINS, "percentile": PERCENTILE, "symmetric": False}
    elif method == "entropy":
        kind, options = CalibrationMethod.Entropy, {"num_bins": ENTROPY_BINS, "num_quantized_bins": 128}
    else:
        raise UsageError(f"calibration {method!r}", wanted="minmax, percentile or entropy", do="use one")
    if method != "minmax" and len(images) > HISTOGRAM_IMAGES:
        images = images[np.linspace(0, len(images) - 1, HISTOGRAM_IMAGES).astype(np.int64)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        source = Path(folder) / "source.onnx"
        source.write_bytes(proto.SerializeToString())
        calibrator = calibrate.create_calibrator(
            source,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        for start in range(0, len(images), BATCH):
            # One batch at a time: the library keeps every number of those it is given at once.
            calibrator.collect_data(_batches(np.ascontiguousarray(images[start : start + BATCH])))
        found = calibrator.compute_data()
    return {
        name: Range(float(np.min(data.range_value[0])), float(np.max(data.range_value[1])))
        for name, data in found.items()
    }


def _batches(batch: NDArray[np.uint8]) -> Any:
    class _Reader:
        """What the library asks for: a batch, then nothing."""

        def __init__(self) -> None:
            self._left = [{INPUT_NAME: batch}]

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return self._left.pop() if self._left else None

    return _Reader()


def scale_of(range_: Range) -> Scale:
    """Bytes for a range, which zero belongs to: it must be exact, for it pads and it is what activations cut to."""
    low, high = min(range_.low, 0.0), max(range_.high, 0.0)
    step = max(high - low, LEAST) / 255
    return Scale(step=step, zero=int(np.clip(round(-low / step), 0, 255)))


def swish_scale(range_: Range) -> Scale:
    """Bytes for the input of a hard-swish x * relu6(x + 3) / 6, so that they are bytes for both factors.

    0 stands for -3 and below, where the product is zero whatever x is. With 3 a whole number k of steps, the zero is k
    and the second factor, relu6(x + 3) / 6, is the byte min(q, 2 k) in steps of a sixth as much.
    """
    high = max(range_.high, KNEE)
    knee = int(np.clip(round(255 * KNEE / (high + KNEE)), 1, 127))
    if (255 - knee) * KNEE / knee < high and knee > 1:
        knee -= 1  # rather a coarser step than a range cut short
    return Scale(step=KNEE / knee, zero=knee)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the library's progress, advice and deprecations to itself."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
