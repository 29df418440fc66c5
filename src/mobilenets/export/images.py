"""Real images for exporting: those that calibrate int8 and those that the gate asks both sides about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import images
from ..data import Dataset, Pixels
from ..errors import DataError
from ..records import Preprocess
from .gate import GateImages

__all__ = ["CALIBRATION_COUNT", "GATE_COUNT", "calibration_images", "gate_images", "unlabelled_images"]

CALIBRATION_COUNT = 512  # ranges of activations settle within some hundred images
GATE_COUNT = 2000  # so that one image is a twentieth of a point


def calibration_images(
    dataset: Dataset, preprocess: Preprocess, *, count: int = CALIBRATION_COUNT, seed: int = 0
) -> NDArray[np.uint8]:
    """Prepared training images (N, R, R, C), N <= count, drawn without regard to class; broken ones are passed over.

    Raises:
        DataError: none of those drawn can be read.
    """
    train = dataset.split("train")
    drawn = np.random.default_rng(seed).permutation(len(train))[:count]
    side = images.scaled_side(preprocess)
    ready = []
    for index in sorted(drawn.tolist()):
        result = train.read(index, channels=preprocess.channels, at_least=side)
        if not isinstance(result, images.Fault):
            ready.append(images.prepare(result.image, preprocess))
    if not ready:
        raise DataError("no training image can be read", wanted="images to calibrate with", do="check the data")
    return np.stack(ready)


def gate_images(pixels: Pixels, *, on: str, count: int = GATE_COUNT) -> GateImages:
    """At most `count` prepared images of a split, evenly spread over it; `on` names the split."""
    index = np.unique(np.linspace(0, len(pixels) - 1, min(count, len(pixels))).astype(np.int64))
    return GateImages(images=pixels.images[index], targets=pixels.targets[index], on=on)


def unlabelled_images(sources: Sequence[images.Source], preprocess: Preprocess, *, on: str) -> GateImages:
    """Pictures that nobody labelled, at most `GATE_COUNT` spread over them all; broken ones are passed over.

    Raises:
        DataError: fewer than two can be read: how logits vary from image to image is what differences are held against.
    """
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(GATE_COUNT, len(sources))).astype(np.int64))
    ready = []
    for index in chosen.tolist():
        result = images.read(sources[index], channels=preprocess.channels, at_least=images.scaled_side(preprocess))
        if not isinstance(result, images.Fault):
            ready.append(images.prepare(result.image, preprocess))
    if len(ready) < 2:
        raise DataError(
            f"{len(ready)} of {len(sources)} pictures can be read",
            wanted="at least two, better a hundred, of the kind the model will see",
            do="give another folder of pictures",
        )
    return GateImages(images=np.stack(ready), targets=None, on=on)
