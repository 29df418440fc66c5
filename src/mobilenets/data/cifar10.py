"""The data set `cifar10`: 60,000 colour photos of 32x32 pixels, fetched once by torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError, MissingExtraError
from ..files import cache_root, digest_of
from ..progress import say
from .dataset import Dataset
from .memory import dataset_in_memory
from .stratify import carve

__all__ = ["open_cifar10"]

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
VAL = 0.1  # of the 50,000 training images: 45,000 / 5,000, and the official 10,000 for test


def open_cifar10(root: Path | None = None, *, seed: int = 0) -> Dataset:
    """CIFAR-10: 45,000 images to train, 5,000 for val (as many of every class), the official 10,000 for test.

    torchvision downloads the official archive (170 MB), checks its digest and reads it; the next call finds it there.

    Args:
        root: where the archive is, or goes; default: the cache folder.
        seed: of the draw of val out of train.

    Raises:
        MissingExtraError: torchvision is not installed.
        DataError: the archive is not there and cannot be fetched.
    """
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise MissingExtraError("torchvision", extra="train") from error
    folder = Path(root) if root is not None else cache_root() / "cifar10"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cifar-10-batches-py").exists():
            say(f"fetching CIFAR-10 (170 MB) into {folder}")
        train, test = (CIFAR10(str(folder), train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a broken archive is a RuntimeError
        raise DataError(
            f"CIFAR-10 cannot be fetched into {folder}: {error}",
            wanted="a way to the internet, or the archive in place",
            do=f"download {URL} by hand and put it into {folder}",
        ) from error
    train_targets = np.asarray(train.targets, dtype=np.int64)
    test_targets = np.asarray(test.targets, dtype=np.int64)
    labels = tuple(train.classes)
    parts = carve(train_targets, labels=labels, fractions={"val": VAL}, seed=seed)
    in_train, in_val = parts["train"], parts["val"]
    after = len(train_targets) + np.arange(len(test_targets), dtype=np.int64)  # test images are numbered after train's
    return dataset_in_memory(
        "cifar10",
        labels=labels,
        splits={
            "train": (train.data[in_train], train_targets[in_train], in_train),
            "val": (train.data[in_val], train_targets[in_val], in_val),
            "test": (test.data, test_targets, after),
        },
        digest=digest_of(["cifar10", digest_of(train.data.tobytes()), digest_of(test.data.tobytes()), seed]),
        mirror_safe=True,
    )
