"""Claims about splits, data sets and their summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.data import Problem, ScanSummary, Split
from mobilenets.data.dataset import natural_order
from mobilenets.errors import DataError, UsageError
from mobilenets.records import from_json, to_json


def test_names_are_ordered_as_people_count() -> None:
    assert natural_order(["class10", "Class2", "class1", "b", "A", "7"]) == (
        "7",
        "A",
        "b",
        "class1",
        "Class2",
        "class10",
    )
    assert natural_order(["a1", "a01"]) == natural_order(["a01", "a1"])


def test_a_split_in_memory_gives_its_images_bit_for_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    split = Split(targets=np.array([0, 1, 0]), names=("a", "b", "c"), pixels=pixels)
    assert len(split) == 3
    assert split.path(1) is None
    assert np.array_equal(split.image(1), pixels[1])
    assert split.image(1, channels=1).mode == "L"


def test_grey_pixels_in_memory_are_served_as_rgb() -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(1, 5, 4, 1)
    image = Split(targets=np.array([0]), names=("a",), pixels=pixels).image(0)
    assert np.array_equal(image, np.repeat(pixels[0], 3, axis=-1))


def test_targets_cannot_be_changed_and_are_not_the_callers() -> None:
    mine = np.array([0, 1])
    split = Split(targets=mine, names=("a", "b"), pixels=np.zeros((2, 2, 2, 3), np.uint8))
    mine[0] = 7
    assert split.targets.tolist() == [0, 1]
    assert split.targets.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        split.targets[0] = 1


def test_a_broken_file_of_a_split_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no")
    split = Split(targets=np.array([0]), names=("bad.jpg",), paths=("bad.jpg",), root=tmp_path)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        split.image(0)


def test_a_split_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    one = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(UsageError, match="as many of each"):
        Split(targets=np.array([0, 1]), names=("a",), pixels=one)
    with pytest.raises(UsageError, match="both"):
        Split(targets=np.array([0]), names=("a",), pixels=one, paths=("a",), root=tmp_path)
    with pytest.raises(UsageError, match="neither"):
        Split(targets=np.array([0]), names=("a",))
    with pytest.raises(UsageError):
        Split(targets=np.array([0]), names=("a",), paths=("a",))


SUMMARY = ScanSummary(
    source="pets",
    counts={"train": {"cat": 4, "dog": 5}, "val": {"cat": 1, "dog": 1}},
    problems=(Problem("cat/notes.txt", "not an image file", "left out", label="cat"),),
    ignored=2,
    notes=("there is no test split",),
)
FOUND = [
    *(Problem(f"cat/{i}.jpg", "truncated", "left out", "train", "cat") for i in range(4)),
    Problem("dog/1.jpg", "CMYK", "used", "train", "dog"),
]


def test_what_decoding_finds_changes_the_counts_once() -> None:
    full = SUMMARY.with_problems(FOUND)
    assert full.counts["train"] == {"cat": 0, "dog": 5}
    assert SUMMARY.counts["train"] == {"cat": 4, "dog": 5}
    assert full.with_problems(FOUND) == full
    assert len(full.problems) == 6


def test_the_description_counts_kinds_and_names_the_first_few() -> None:
    text = SUMMARY.with_problems(FOUND).describe()
    assert "7 images of 2 classes (train 5, val 2)" in text
    assert "5 left out (truncated 4, not an image file 1): cat/notes.txt, cat/0.jpg, cat/1.jpg and 2 more" in text
    assert "1 used after a conversion (CMYK 1): dog/1.jpg" in text
    assert "2 hidden or system files ignored" in text
    assert text.endswith("there is no test split")


def test_the_summary_survives_json() -> None:
    full = SUMMARY.with_problems(FOUND)
    assert from_json(json.loads(json.dumps(to_json(full))), ScanSummary, what="summary") == full


def test_pictures_in_memory_keep_their_type() -> None:
    split = Split(targets=np.array([0]), names=("a",), pixels=np.zeros((1, 2, 2, 1), np.uint8))
    assert isinstance(split.image(0, channels=1), Image.Image)
