"""One artifact in a process of its own, timed on request: `python -m mobilenets.bench.worker`. See `serve`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.model import Model, open_artifact
from .serve import OpenRequest, Subject, serve

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main"]

PIXELS_SEED = 0
PICTURES = 8
PATCHES = 4  # per side of a picture: noise from pixel to pixel looks alike to a network


def main() -> None:
    """Answer requests until standard input closes."""
    serve(_open)


def _open(request: OpenRequest) -> Subject:
    model = open_artifact(Path(request.path), engine=request.engine, threads=request.threads)
    artifact = model.artifact
    facts = {
        "size_mb": artifact.size_mb,
        "parameters": artifact.parameters,
        "mult_adds": artifact.mult_adds,
        "resolution": artifact.preprocess.resolution,
    }
    pixels = _noise(model, batch_size=request.batch_size)
    files = itertools.cycle(request.images)

    def answer() -> Any:
        return model.engine.run(pixels)

    def from_files() -> Any:
        from ..runtime.predict import predict

        batch = [Path(next(files)) for _ in range(request.batch_size)]
        return list(predict(model, batch, top_k=1, batch_size=request.batch_size))

    return Subject(
        engine=model.engine.name,
        version=model.engine.version,
        threads=model.engine.threads,
        once=from_files if request.images else answer,
        answer=lambda: model.engine.run(_pictures(model)).tolist(),
        facts={name: float(value) for name, value in facts.items()},
    )


def _noise(model: Model, *, batch_size: int) -> NDArray[np.uint8]:
    """What is timed: uint8 (batch_size, R, R, C), uniform, the same in every worker."""
    side, channels = model.preprocess.resolution, model.preprocess.channels
    return np.random.default_rng(PIXELS_SEED).integers(0, 256, (batch_size, side, side, channels), dtype=np.uint8)


def _pictures(model: Model) -> NDArray[np.uint8]:
    """What engines are compared on: uint8 (PICTURES, R, R, C), patches of colour, the same in every worker."""
    side, channels = model.preprocess.resolution, model.preprocess.channels
    shape = (PICTURES, PATCHES, PATCHES, channels)
    coarse = np.random.default_rng(PIXELS_SEED).integers(0, 256, shape, dtype=np.uint8)
    index = np.arange(side) * PATCHES // side
    return np.ascontiguousarray(coarse[:, index][:, :, index])


if __name__ == "__main__":
    main()
