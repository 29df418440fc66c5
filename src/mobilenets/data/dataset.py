"""Labelled images: `Split` (images with their classes or labels) and `Dataset` (splits that share their labels)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .. import images
from ..errors import DataError, UsageError
from ..records import Task
from .summary import ScanSummary, SplitName

__all__ = ["Dataset", "Split", "images_of_labels", "natural_order"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their classes or labels, either as files or in memory.

    Args:
        targets: the class of each image, int64 (N,); or, where an image has any number of labels, float32 (N, K): 1 has
            the label, 0 has it not, NaN: nobody knows. Kept as a read-only copy.
        names: for each image what a person would call it: the path relative to the data set's folder, or a number.
        paths: for each image its file relative to `root`; `names` has the same with odd bytes made printable.
        root: the folder of `paths`.
        pixels: instead of files, uint8 (N, height, width, channels).

    Raises:
        UsageError: the parts do not have the same length, or there are both files and pixels, or neither.
    """

    targets: npt.NDArray[Any]
    names: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    root: Path | None = None
    pixels: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if (self.paths is None) == (self.pixels is None) or (self.paths is None) != (self.root is None):
            raise UsageError(
                "a split with both files and pixels, or neither", wanted="paths with root, or pixels", do="give one"
            )
        images_given = self.paths if self.paths is not None else self.pixels
        assert images_given is not None
        if not len(self.targets) == len(self.names) == len(images_given):
            raise UsageError(
                f"{len(images_given)} images, {len(self.targets)} targets, {len(self.names)} names",
                wanted="as many of each",
                do="give one target and one name per image",
            )
        targets = np.array(self.targets, dtype=np.float32 if np.ndim(self.targets) == 2 else np.int64)
        targets.flags.writeable = False
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path | None:
        """The file of one image; None for an image in memory."""
        return None if self.paths is None or self.root is None else self.root / self.paths[index]

    def read(self, index: int, *, channels: int = 3, at_least: int | None = None) -> images.Decoded | images.Fault:
        """Decode one image, or say why it cannot be; see `images.read`."""
        path = self.path(index)
        if path is not None:
            return images.read(path, channels=channels, at_least=at_least)
        assert self.pixels is not None
        pixels = self.pixels[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return images.read(image, channels=channels)

    def image(self, index: int, *, channels: int = 3) -> Image.Image:
        """Decode one image at its full size.

        Raises:
            DataError: it cannot be decoded.
        """
        result = self.read(index, channels=channels)
        if isinstance(result, images.Fault):
            raise result.error()
        return result.image


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits that share their labels.

    Args:
        name: what a person calls it.
        labels: the class names in natural order, a target is an index into them; or the names of the targets' columns.
        splits: "train" and "val", mostly "test". Without "test", final numbers are numbers on "val".
        summary: what was found on opening; decoding may find more.
        digest: changes when a file is added, removed, renamed, resized or touched, or lands in another split.
        mirror_safe: whether an image seen in a mirror still belongs to its class; false for digits and letters.
        channels: how many the images have by nature when decoded: 3 or 1.
        task: "classify" for one class per image, "multilabel" for any number of labels.
    """

    name: str
    labels: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    summary: ScanSummary
    digest: str
    mirror_safe: bool = True
    channels: int = 3
    task: Task = "classify"

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))

    def split(self, name: SplitName) -> Split:
        """One split.

        Raises:
            DataError: this data set has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.name} has no split {name!r}",
                wanted="one of " + ", ".join(self.splits),
                do=f"add a folder {name}/ with one folder per class (or rows of that split to a table), or use another",
            )
        return self.splits[name]

    @property
    def final_split(self) -> SplitName:
        """The split that final numbers are measured on: "test" where there is one, else "val"."""
        return "test" if "test" in self.splits else "val"


def images_of_labels(targets: npt.NDArray[Any], *, count: int) -> npt.NDArray[np.int64]:
    """How many images each class or label has, (count,), from the targets of a `Split`."""
    if targets.ndim == 2:
        return np.asarray((targets == 1).sum(axis=0), dtype=np.int64)
    return np.bincount(targets, minlength=count).astype(np.int64)


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted as people count: `class2` before `class10`, capitals beside small letters."""

    def key(name: str) -> tuple[list[str | int], str]:
        # Splitting at digits alternates text and number, so like is compared with like.
        parts = re.split(r"(\d+)", name.casefold())
        return [int(part) if index % 2 else part for index, part in enumerate(parts)], name

    return tuple(sorted(names, key=key))
