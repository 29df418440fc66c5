"""Which calibration images judge int8, and how much of a network may stay float32 for it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError, UsageError

__all__ = ["LEAST_HELD", "MOST_FLOAT", "MOST_HELD", "check_answers", "check_calibration", "held_back"]

HELD: Final = 0.25  # share of the calibration images that judge, and do not calibrate
LEAST_HELD: Final = 8  # fewer images tell nothing
MOST_HELD: Final = 128
MOST_FLOAT: Final = 1 / 3  # of the rows; with more of them in float32, int8 is not what this is


def check_calibration(images: NDArray[np.uint8]) -> None:
    """Refuse int8 without images.

    Raises:
        UsageError: there are none.
    """
    if not len(images):
        raise UsageError(
            "int8 without calibration images",
            wanted="some hundred prepared training images, from which value ranges are read",
            do="give the data set the model was trained on (--data)",
        )


def check_answers(logits: NDArray[np.float32], *, name: str) -> None:
    """Refuse int8 of a network without answers in float32.

    Args:
        logits: of some calibration images, (N, classes).
        name: of the network.

    Raises:
        CheckError: one is infinite or no number.
    """
    if not np.isfinite(logits).all():
        raise CheckError(
            f"{name} answers with what is no number, in float32",
            wanted="finite logits",
            do="see where it begins (mobilenets diagnose), or take an earlier bundle of its training",
        )


def held_back(count: int) -> NDArray[np.bool_]:
    """Which of `count` images judge, and do not calibrate: bool (count,), and none of them where there are too few."""
    judging = np.zeros(count, bool)
    held = min(int(HELD * count), MOST_HELD)
    if held >= LEAST_HELD:
        # Every so-many-th, for data sets lie sorted by class.
        judging[np.linspace(0, count - 1, held).astype(np.int64)] = True
    return judging
