"""The images of a fit, decoded once for each way to prepare them."""

from __future__ import annotations

from ..arch import ArchSpec
from ..data import Dataset, Pixels, ScanSummary, SplitName, Store, prepared, store
from ..progress import say
from ..records import Preprocess
from ..train.choose import store_side

__all__ = ["Decoded"]


class Decoded:
    """A data set's images as networks take them."""

    def __init__(self, dataset: Dataset) -> None:
        """Nothing is decoded yet."""
        self._dataset = dataset
        self._pixels: dict[tuple[SplitName, Preprocess], Pixels] = {}
        self._stores: dict[int, Store] = {}
        self._told = 0  # problems with images

    def prepared(self, split: SplitName, preprocess: Preprocess) -> Pixels:
        """A split's images as they are judged.

        Raises:
            DataError: none can be used.
        """
        key = (split, preprocess)
        if key not in self._pixels:
            self._pixels[key] = prepared(self._dataset, split, preprocess)
        return self._pixels[key]

    def stored(self, spec: ArchSpec, *, native_side: int | None) -> Store:
        """The training images for a table, with room for random crops where they are photos.

        Raises:
            DataError: none can be used.
        """
        kept = store_side(spec, native_side=native_side)
        if kept not in self._stores:
            self._stores[kept] = store(self._dataset, "train", side=kept, channels=spec.channels)
        return self._stores[kept]

    @property
    def summary(self) -> ScanSummary:
        """What was found in the images, on opening and on decoding."""
        caches: list[Pixels | Store] = [*self._pixels.values(), *self._stores.values()]
        return self._dataset.summary.with_problems(p for cache in caches for p in cache.problems)

    def tell_problems(self) -> None:
        """Say what is wrong with images that were decoded since the last time, if anything is."""
        found = self.summary
        if len(found.problems) > self._told:
            self._told = len(found.problems)
            say(found.describe())
