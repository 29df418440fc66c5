"""Labelled images: data sets by name, from a folder or from a table, their splits, and the cache that decodes each
image once.

No torch here; `open_cifar10` alone imports torchvision, when it is called.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import DataError
from .cache import Pixels, Store, prepared, store
from .cifar10 import open_cifar10
from .dataset import Dataset, Split
from .digits import open_digits
from .folder import holds_classes, open_folder
from .summary import Problem, ScanSummary, SplitName
from .table import TABLE_NAME, open_table

__all__ = [
    "DATASETS",
    "Dataset",
    "Pixels",
    "Problem",
    "ScanSummary",
    "Split",
    "SplitName",
    "Store",
    "open_cifar10",
    "open_dataset",
    "open_digits",
    "open_folder",
    "open_table",
    "prepared",
    "store",
]

DATASETS = ("cifar10", "digits")  # known by name; everything else is a folder or a table


def open_dataset(source: str | Path, *, seed: int = 0) -> Dataset:
    """Open a data set by name, a folder of images, or a table of images with any number of labels each.

    A folder that holds `labels.csv` is that table, unless it has class folders: then it means what it would mean
    without the table, which has to be named itself.

    Args:
        source: "digits", "cifar10", the path of a folder, or that of a `.csv` (`open_table`). A name wins over a folder
            called the same; to mean the folder, write `./digits`, or pass a `Path`.
        seed: of the draw into splits, where the data set does not bring its own.

    Raises:
        DataError: neither a name nor a folder nor a table, or one that cannot be used.
        MissingExtraError: the named data set needs a package that is not installed.
    """
    if source == "digits":
        return open_digits(seed=seed)
    if source == "cifar10":
        return open_cifar10(seed=seed)
    path = Path(source)
    separators = {os.sep, os.altsep or os.sep}
    if isinstance(source, str) and not path.exists() and separators.isdisjoint(source):
        near = difflib.get_close_matches(source, DATASETS, n=1)
        raise DataError(
            f"{source!r} is neither a data set nor a folder",
            wanted=f"{' or '.join(DATASETS)}, or the path of a folder with one folder per class, or of a table (.csv)",
            do=f"did you mean {near[0]}?" if near else "check the name, or the path",
        )
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return open_table(path, seed=seed)
    if (path / TABLE_NAME).is_file() and not holds_classes(path):
        return open_table(path / TABLE_NAME, seed=seed)
    return open_folder(path, seed=seed)
