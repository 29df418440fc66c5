"""A bundle as an int8 artifact, with what was tried on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..records import Artifact
from .artifact import export
from .formats import Calibration, Made, onnx_file
from .gate import GateImages, Limits
from .quantize import Calibrate, Quantized, quantize

__all__ = ["export_int8"]


def export_int8(
    bundle: Bundle,
    out: Path,
    *,
    images: GateImages,
    calibration_images: NDArray[np.uint8],
    calibration: Calibrate = "auto",
    limits: Limits | None = None,
    faster_than: Path | None = None,
    threads: int | None = None,
) -> tuple[Artifact, Quantized]:
    """`export` as ONNX in int8, with a say in how ranges are found, and what was tried.

    Args:
        bundle: a trained network.
        out: the artifact's folder; appears as a whole, and only when every gate is passed.
        images: real images that the torch network and the file must answer alike; none of those that calibrate.
        calibration_images: prepared training images, uint8 (N, R, R, C).
        calibration: how ranges are found; see `quantize`.
        limits: what may differ; None: int8's own.
        faster_than: the fp32 artifact that int8 must beat, measured side by side. Without it, speed is not judged.
        threads: for measuring speed; None: the engine's default.

    Raises:
        GateError: the file answers differently, or is not faster; nothing is written.
        UsageError: there are no calibration images, or `out` cannot be written.
    """
    made: list[Quantized] = []

    def maker(source: Bundle, calibrating: Calibration | None) -> Made:
        made.append(quantize(source, calibration_images, calibration=calibration))
        return onnx_file(made[-1].model, source)

    artifact = export(
        bundle,
        out,
        images=images,
        precision="int8",
        calibration=calibration_images,
        limits=limits,
        faster_than=faster_than,
        threads=threads,
        maker=maker,
    )
    return artifact, made[-1]
