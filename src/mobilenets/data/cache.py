"""The decode-once cache: a folder of raw pixels, whole or absent, opened as a read-only memory map.

- `prepared` keeps exactly what a network is fed (val, test, gates): `Pixels`.
- `store` keeps every image at a size that augmentation can still crop from (train): `Store`.

Both are kept the same way: `pixels.bin` (all images one after the other, uint8, height x width x channels each),
`sizes.npy` (N, 2), `targets.npy` (as in `Split`), and `meta.json` with names and problems. The folder's name holds a
digest of all that decides its contents, so an old cache is never mistaken for a new one; old caches stay until they
are deleted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from .. import images
from ..errors import DataError, FileFormatError, MobileNetsError, UsageError
from ..files import cache_root, digest_of, new_folder, write_json
from ..progress import track
from ..records import Preprocess, read_record, to_json
from .dataset import Dataset, Split, images_of_labels
from .summary import Problem, SplitName

__all__ = ["Pixels", "Store", "prepared", "store"]

FORMAT = 1  # of the folder; another number makes other digests
CHUNK = 32  # images a thread takes at a time: enough to make handing over cheap, few enough to hold in memory
MAX_THREADS = 8  # Pillow decodes outside the interpreter's lock, but opens files inside it

Array: TypeAlias = npt.NDArray[np.uint8]
_Result: TypeAlias = tuple[Array | None, tuple[Problem, ...]]


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a network is fed, N images of one split.

    Attributes:
        images: uint8 (N, resolution, resolution, channels), read-only, on disk.
        targets: int64 (N,) or float32 (N, K), as in `Split`; read-only.
        names: N names, as in the split.
        problems: images that were converted or left out; those left out are in none of the above.
    """

    images: Array
    targets: npt.NDArray[Any]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Store:
    """Decoded images of their own sizes, N of one split.

    Attributes:
        blob: uint8, all pixels one image after the other, read-only, on disk.
        sizes: int64 (N, 2): height, width.
        channels: 3 or 1.
        targets: int64 (N,) or float32 (N, K), as in `Split`; read-only.
        names: N names, as in the split.
        problems: images that were converted or left out; those left out are in none of the above.
    """

    blob: Array
    sizes: npt.NDArray[np.int64]
    channels: int
    targets: npt.NDArray[Any]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each image begins in `blob`, and where the last one ends: (N + 1,)."""
        lengths = self.sizes[:, 0] * self.sizes[:, 1] * self.channels
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def pixels(self, index: int) -> Array:
        """One image, uint8 (height, width, channels), read-only, not copied."""
        height, width = self.sizes[index]
        return self.blob[self.offsets[index] : self.offsets[index + 1]].reshape(height, width, self.channels)

    @cached_property
    def uniform(self) -> Array | None:
        """All images as one array (N, height, width, channels), not copied; None when their sizes differ."""
        height, width = self.sizes[0]
        if (self.sizes != (height, width)).any():
            return None
        return self.blob.reshape(len(self), height, width, self.channels)


def prepared(dataset: Dataset, split: SplitName, preprocess: Preprocess, *, cache_dir: Path | None = None) -> Pixels:
    """The images of a split as `images.load` gives them, decoded once and then kept.

    Args:
        dataset: where the images are.
        split: "train", "val" or "test".
        preprocess: its size, crop and interpolation decide the pixels; mean and std do not.
        cache_dir: where caches are kept; default: `images` in the cache folder.

    Raises:
        DataError: no such split, or more than half of its images are broken, or a class to train on has none left.
        UsageError: the cache cannot be written.
    """
    side = images.scaled_side(preprocess)
    of_split = dataset.split(split)

    def make(index: int) -> images.Decoded | images.Fault:
        return of_split.read(index, channels=preprocess.channels, at_least=side)

    saved = _cached(
        dataset,
        split,
        read=make,
        finish=lambda image: images.prepare(image, preprocess),
        channels=preprocess.channels,
        kind="prepared",
        parameters=[
            preprocess.resolution,
            preprocess.channels,
            preprocess.resize,
            preprocess.crop_fraction,
            preprocess.interpolation,
        ],
        cache_dir=cache_dir,
    )
    size = preprocess.resolution
    return Pixels(
        images=saved.blob.reshape(-1, size, size, preprocess.channels),
        targets=saved.targets,
        names=saved.names,
        problems=saved.problems,
    )


def store(dataset: Dataset, split: SplitName, *, side: int, channels: int, cache_dir: Path | None = None) -> Store:
    """The images of a split, scaled down so that the shorter side is at most `side` pixels, decoded once and kept.

    Args:
        dataset: where the images are.
        split: "train", "val" or "test".
        side: pixels; smaller images stay as they are.
        channels: 3 (RGB) or 1 (grey).
        cache_dir: where caches are kept; default: `images` in the cache folder.

    Raises:
        DataError: no such split, or more than half of its images are broken, or a class to train on has none left.
        UsageError: the cache cannot be written, or `side` or `channels` is out of range.
    """
    if side < 1 or channels not in (1, 3):
        raise UsageError(
            f"side is {side} and channels {channels}",
            wanted="a side of at least 1 pixel, and 1 or 3 channels",
            do="correct it",
        )
    of_split = dataset.split(split)
    saved = _cached(
        dataset,
        split,
        read=lambda index: of_split.read(index, channels=channels, at_least=side),
        finish=lambda image: images.as_array(images.shrink(image, shorter_side=side)),
        channels=channels,
        kind="store",
        parameters=[side, channels],
        cache_dir=cache_dir,
    )
    return Store(
        blob=saved.blob,
        sizes=saved.sizes,
        channels=channels,
        targets=saved.targets,
        names=saved.names,
        problems=saved.problems,
    )


class _Meta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    channels: int
    names: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, eq=False)
class _Saved:
    blob: Array
    sizes: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]


def _cached(
    dataset: Dataset,
    split: SplitName,
    *,
    read: Callable[[int], images.Decoded | images.Fault],
    finish: Callable[[Image.Image], Array],
    channels: int,
    kind: str,
    parameters: Sequence[str | int | float],
    cache_dir: Path | None,
) -> _Saved:
    of_split = dataset.split(split)
    # The folder is in the digest, too: unpacked archives can agree in names, sizes and times, and differ in pixels.
    where = str(of_split.root.resolve()) if of_split.root is not None else None
    digest = digest_of([FORMAT, PIL.__version__, dataset.digest, where, split, kind, list(parameters)])
    folder = (cache_dir if cache_dir is not None else cache_root() / "images") / f"{kind}-{split}-{digest}"
    saved = _open(folder)
    if saved is not None:
        return saved
    try:
        with new_folder(folder) as part:
            _fill(part, dataset, split, read=read, finish=finish, channels=channels)
    except DataError:
        raise
    except UsageError:
        # Another process may have put its own, equal cache in place at the same moment.
        saved = _open(folder)
        if saved is None:
            raise
        return saved
    saved = _open(folder)
    if saved is None:
        raise FileFormatError(
            f"the cache {folder} cannot be read back",
            wanted="a disk that keeps what is written",
            do="choose another cache folder with MOBILENETS_CACHE",
        )
    return saved


def _open(folder: Path) -> _Saved | None:
    """The cache in `folder`; None when it is missing, incomplete or broken, and is to be made (again)."""
    try:
        meta = read_record(folder / "meta.json", _Meta, what="image cache")
        sizes = np.load(folder / "sizes.npy", allow_pickle=False)
        targets = np.load(folder / "targets.npy", allow_pickle=False)
        blob = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
    except (MobileNetsError, OSError, ValueError, EOFError):
        return None
    if sizes.shape != (len(meta.names), 2) or targets.shape[:1] != (len(meta.names),):
        return None
    if blob.size != int(sizes.prod(axis=1).sum()) * meta.channels:
        return None
    sizes.flags.writeable = False
    targets.flags.writeable = False
    # A plain array over the same map: memmap's own class makes each small slice slow.
    return _Saved(blob.view(np.ndarray), sizes, targets, meta.names, meta.problems)


def _fill(
    folder: Path,
    dataset: Dataset,
    split: SplitName,
    *,
    read: Callable[[int], images.Decoded | images.Fault],
    finish: Callable[[Image.Image], Array],
    channels: int,
) -> None:
    of_split = dataset.split(split)
    kept: list[int] = []
    sizes: list[tuple[int, ...]] = []
    problems: list[Problem] = []

    def work(index: int) -> _Result:
        name = of_split.names[index]
        one_each = of_split.targets.ndim == 1
        label = dataset.labels[of_split.targets[index]] if one_each else None
        result = read(index)
        if isinstance(result, images.Fault):
            return None, (Problem(name, result.kind, "left out", split, label),)
        return finish(result.image), tuple(Problem(name, note, "used", split, label) for note in result.notes)

    results = _in_threads(work, len(of_split))
    with (folder / "pixels.bin").open("wb") as file:
        for index, (pixels, found) in enumerate(track(results, total=len(of_split), what=f"decoding {split} images")):
            problems.extend(found)
            if pixels is not None:
                kept.append(index)
                sizes.append(pixels.shape[:2])
                file.write(pixels.data)
    _check_what_is_left(dataset, split, kept, problems)
    np.save(folder / "sizes.npy", np.array(sizes, dtype=np.int64))
    np.save(folder / "targets.npy", of_split.targets[kept])
    meta = _Meta(channels=channels, names=tuple(of_split.names[index] for index in kept), problems=tuple(problems))
    write_json(folder / "meta.json", to_json(meta))


def _in_threads(work: Callable[[int], _Result], count: int) -> Iterator[_Result]:
    """The results of `work(0)`, `work(1)` ... in this order, computed a few chunks ahead."""

    def chunk(start: int) -> list[_Result]:
        return [work(index) for index in range(start, min(start + CHUNK, count))]

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[Future[list[_Result]]] = deque()
    try:
        for start in range(0, count, CHUNK):
            ahead.append(pool.submit(chunk, start))
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_what_is_left(dataset: Dataset, split: SplitName, kept: Sequence[int], problems: Sequence[Problem]) -> None:
    of_split: Split = dataset.split(split)
    broken = [problem for problem in problems if problem.action == "left out"]
    shown = ", ".join(f"{problem.path} ({problem.kind})" for problem in broken[:3])
    if 2 * len(kept) < len(of_split) or not kept:
        raise DataError(
            f"{len(broken)} of {len(of_split)} images of {split} in {dataset.name} are broken: {shown} ...",
            wanted="at most half of them broken",
            do="copy the data set again, or check that these files are images",
        )
    before, after = (images_of_labels(t, count=len(dataset.labels)) for t in (of_split.targets, of_split.targets[kept]))
    lost = [label for label, some, left in zip(dataset.labels, before, after, strict=True) if some and not left]
    if split == "train" and lost:
        raise DataError(
            f"no image of {', '.join(lost[:5])} in {dataset.name} can be decoded: {shown} ...",
            wanted="at least one image for every class to train on",
            do="replace these files, or remove the folder of that class (the column of that label)",
        )
