"""Small folders of images to open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets import images
from mobilenets.data import Dataset, Split, open_folder

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Make `{"train/cat": 3, ...}`: so many PNG images of 12x8 pixels, all different, in each folder."""

    def make(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "pets"
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{index:03d}.png")
        return root

    return make


@pytest.fixture
def pets(make_folder: MakeFolder) -> Dataset:
    return open_folder(make_folder({"train/cat": 4, "train/dog": 5, "val/cat": 2, "val/dog": 1}))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of images that were decoded, in the order in which that began."""
    seen: list[int] = []
    read = Split.read

    def counted(self: Split, index: int, **options: int) -> images.Decoded | images.Fault:
        seen.append(index)
        return read(self, index, **options)

    monkeypatch.setattr(Split, "read", counted)
    return seen
