"""Splits that are drawn: seeded, and class by class so that each part looks like the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .summary import SplitName

__all__ = ["carve"]


def carve(
    targets: npt.NDArray[np.int64], *, labels: Sequence[str], fractions: Mapping[SplitName, float], seed: int
) -> dict[SplitName, npt.NDArray[np.int64]]:
    """Draw parts out of a set of images; what remains is "train".

    Of a class with n images each part gets `round(n * fraction)`, but at least one, and train keeps at least one. A
    class too small for that (n <= number of parts) stays in train as a whole. The draw of a class depends on the seed,
    its label and its n alone, so adding another class does not move images between parts.

    Args:
        targets: the class of each image, (N,).
        labels: the name of each class.
        fractions: the parts besides train, each in (0, 1), together below 1.
        seed: at least 0.

    Returns:
        for each part the indices of its images, ascending; "train" comes first.

    Raises:
        UsageError: a fraction or the seed is out of range.
    """
    if seed < 0:
        raise UsageError(f"seed is {seed}", wanted="an integer of at least 0", do="choose another seed")
    for part, fraction in fractions.items():
        if not 0 < fraction < 1 or sum(fractions.values()) >= 1:
            raise UsageError(
                f"the fraction of {part} is {fraction}",
                wanted="in (0, 1), all together below 1",
                do="choose smaller fractions, such as 0.1",
            )
    drawn: dict[SplitName, list[npt.NDArray[np.int64]]] = {"train": [], **{part: [] for part in fractions}}
    order = np.argsort(targets, kind="stable")
    bounds = np.searchsorted(targets[order], np.arange(len(labels) + 1))
    for index, label in enumerate(labels):
        members = order[bounds[index] : bounds[index + 1]]
        shuffled = np.random.default_rng([seed, *label.encode()]).permutation(members)
        start = 0
        for part, count in _part_sizes(len(members), fractions).items():
            drawn[part].append(shuffled[start : start + count])
            start += count
        drawn["train"].append(shuffled[start:])
    return {part: np.sort(np.concatenate(pieces)) for part, pieces in drawn.items()}


def _part_sizes(n: int, fractions: Mapping[SplitName, float]) -> dict[SplitName, int]:
    if n <= len(fractions):
        return dict.fromkeys(fractions, 0)
    sizes = {part: max(1, round(n * fraction)) for part, fraction in fractions.items()}
    while sum(sizes.values()) >= n:  # rounding up must not take the last training image
        largest = max(sizes, key=lambda part: sizes[part])
        sizes[largest] -= 1
    return sizes
