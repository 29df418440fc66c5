"""A data set whose images are arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .dataset import Dataset, Split
from .summary import ScanSummary, SplitName

__all__ = ["dataset_in_memory"]


def dataset_in_memory(
    name: str,
    *,
    labels: tuple[str, ...],
    splits: Mapping[SplitName, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    digest: str,
    mirror_safe: bool,
) -> Dataset:
    """Put arrays together as a `Dataset`.

    Args:
        name: what a person calls it; images are named `name/number`.
        labels: the class names in natural order.
        splits: per split the pixels, uint8 (N, height, width, channels), the targets (N,), and the numbers (N,) that
            the images go by.
        digest: names content and split.
        mirror_safe: see `Dataset`.
    """
    counts: dict[SplitName, dict[str, int]] = {}
    made: dict[SplitName, Split] = {}
    for split, (pixels, targets, numbers) in splits.items():
        made[split] = Split(targets=targets, names=tuple(f"{name}/{number}" for number in numbers), pixels=pixels)
        per_class = np.bincount(targets, minlength=len(labels))
        counts[split] = {label: int(n) for label, n in zip(labels, per_class, strict=True)}
    return Dataset(
        name=name,
        labels=labels,
        splits=made,
        summary=ScanSummary(source=name, counts=counts),
        digest=digest,
        mirror_safe=mirror_safe,
    )
