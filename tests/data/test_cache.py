"""Claims about the decode-once cache."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets import images
from mobilenets.data import Dataset, Split, open_digits, open_folder, prepared, store
from mobilenets.data import cache as cache_module
from mobilenets.errors import DataError, UsageError
from mobilenets.files import new_folder
from mobilenets.records import Preprocess

MakeFolder = Callable[[Mapping[str, int]], Path]
SMALL = Preprocess(resolution=16)


def only_folder(cache_dir: Path) -> Path:
    (folder,) = cache_dir.iterdir()
    return folder


# --- what they hold


def test_prepared_pixels_are_those_of_load(pets: Dataset, tmp_path: Path) -> None:
    preprocess = Preprocess(resolution=16, crop_fraction=0.8, interpolation="bicubic")
    pixels = prepared(pets, "train", preprocess, cache_dir=tmp_path)
    split = pets.split("train")
    assert pixels.images.shape == (9, 16, 16, 3)
    assert pixels.names == split.names
    assert np.array_equal(pixels.targets, split.targets)
    for index in range(9):
        path = split.path(index)
        assert path is not None
        assert np.array_equal(pixels.images[index], images.load(path, preprocess))


def test_prepared_pixels_may_be_grey(pets: Dataset, tmp_path: Path) -> None:
    preprocess = Preprocess(resolution=16, channels=1, mean=(0.5,), std=(0.5,))
    assert prepared(pets, "val", preprocess, cache_dir=tmp_path).images.shape == (3, 16, 16, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_store_of_equal_images_is_one_array(pets: Dataset, tmp_path: Path, channels: int) -> None:
    kept = store(pets, "train", side=64, channels=channels, cache_dir=tmp_path)
    assert kept.uniform is not None
    assert kept.uniform.shape == (9, 8, 12, channels)
    for index in range(9):
        expected = images.as_array(pets.split("train").image(index, channels=channels))
        assert np.array_equal(kept.pixels(index), expected)
        assert np.array_equal(kept.uniform[index], expected)


def test_a_store_scales_down_but_never_up(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    Image.new("RGB", (100, 60), "red").save(root / "train/cat/large.png")
    Image.new("RGB", (40, 200), "blue").save(root / "train/dog/tall.png")
    kept = store(open_folder(root), "train", side=20, channels=3, cache_dir=tmp_path)
    assert kept.uniform is None
    assert dict(zip(kept.names, kept.sizes.tolist(), strict=True)) == {
        "train/cat/000.png": [8, 12],
        "train/cat/large.png": [20, 33],
        "train/dog/000.png": [8, 12],
        "train/dog/tall.png": [100, 20],
    }
    assert (kept.pixels(1) == (255, 0, 0)).all()
    assert (kept.pixels(3) == (0, 0, 255)).all()
    assert len(kept) == 4


def test_images_in_memory_are_kept_bit_for_bit(tmp_path: Path) -> None:
    dataset = open_digits()
    kept = store(dataset, "val", side=28, channels=1, cache_dir=tmp_path)
    assert kept.uniform is not None
    assert np.array_equal(kept.uniform, dataset.split("val").pixels)


def test_what_is_kept_cannot_be_changed(pets: Dataset, tmp_path: Path) -> None:
    pixels = prepared(pets, "val", SMALL, cache_dir=tmp_path)
    kept = store(pets, "val", side=8, channels=3, cache_dir=tmp_path)
    assert kept.uniform is not None
    for array in (pixels.images, pixels.targets, kept.blob, kept.pixels(0), kept.uniform, kept.targets, kept.sizes):
        assert not array.flags.writeable


def test_a_cache_of_many_images_keeps_their_order(tmp_path: Path) -> None:
    count = 5 * cache_module.CHUNK + 3
    numbers = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1) * np.ones((1, 4, 4, 1), np.uint8)
    digits = open_digits()
    split = Split(targets=np.arange(count) % 10, names=tuple(map(str, range(count))), pixels=numbers)
    dataset = Dataset("numbers", digits.labels, {"train": split}, digits.summary, digest="numbers")
    assert prepared(dataset, "train", SMALL, cache_dir=tmp_path).images[:, 0, 0, 0].tolist() == list(range(count))


# --- when they are made


def test_images_are_decoded_once(pets: Dataset, tmp_path: Path, reads: list[int]) -> None:
    first = prepared(pets, "train", SMALL, cache_dir=tmp_path)
    assert len(reads) == 9
    again = prepared(pets, "train", SMALL, cache_dir=tmp_path)
    assert len(reads) == 9
    assert np.array_equal(first.images, again.images)
    assert first.names == again.names


@pytest.mark.parametrize(
    "other",
    [
        Preprocess(resolution=17),
        Preprocess(resolution=16, crop_fraction=0.9),
        Preprocess(resolution=16, resize="stretch"),
        Preprocess(resolution=16, interpolation="nearest"),
        Preprocess(resolution=16, channels=1, mean=(0.5,), std=(0.5,)),
    ],
)
def test_another_preprocess_is_another_cache(
    pets: Dataset, tmp_path: Path, reads: list[int], other: Preprocess
) -> None:
    prepared(pets, "val", SMALL, cache_dir=tmp_path)
    prepared(pets, "val", other, cache_dir=tmp_path)
    assert len(reads) == 6


def test_mean_and_std_do_not_make_another_cache(pets: Dataset, tmp_path: Path, reads: list[int]) -> None:
    prepared(pets, "val", SMALL, cache_dir=tmp_path)
    prepared(pets, "val", Preprocess(resolution=16, mean=(0.5,) * 3, std=(0.5,) * 3), cache_dir=tmp_path)
    assert len(reads) == 3


def test_a_changed_file_makes_another_cache(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    before = prepared(open_folder(root), "val", SMALL, cache_dir=tmp_path / "cache").images[0].copy()
    Image.new("RGB", (12, 8), "red").save(root / "val/cat/000.png")
    after = prepared(open_folder(root), "val", SMALL, cache_dir=tmp_path / "cache").images[0]
    assert not np.array_equal(before, after)
    assert (after == (255, 0, 0)).all()


def test_the_default_place_is_the_cache_folder(pets: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "mine"))
    prepared(pets, "val", SMALL)
    assert only_folder(tmp_path / "mine" / "images").is_dir()


@pytest.mark.parametrize(
    ("side", "channels"),
    [(0, 3), (16, 2)],
)
def test_a_store_of_nothing_is_bad_use(pets: Dataset, tmp_path: Path, side: int, channels: int) -> None:
    with pytest.raises(UsageError, match="side"):
        store(pets, "val", side=side, channels=channels, cache_dir=tmp_path)


def test_a_split_that_is_not_there_is_refused(pets: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        prepared(pets, "test", SMALL, cache_dir=tmp_path)


# --- what goes wrong with them


def cut_pixels(folder: Path) -> None:
    os.truncate(folder / "pixels.bin", 100)


def empty_pixels(folder: Path) -> None:
    os.truncate(folder / "pixels.bin", 0)


def remove_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def break_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"names": [1')


def other_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"channels": 3, "names": ["a"], "problems": []}')


def break_targets(folder: Path) -> None:
    (folder / "targets.npy").write_bytes(b"\x93NUMPY")


def remove_sizes(folder: Path) -> None:
    (folder / "sizes.npy").unlink()


@pytest.mark.parametrize(
    "hurt", [cut_pixels, empty_pixels, remove_meta, break_meta, other_meta, break_targets, remove_sizes]
)
def test_a_broken_cache_is_made_again(
    hurt: Callable[[Path], None], pets: Dataset, tmp_path: Path, reads: list[int]
) -> None:
    cache_dir = tmp_path / "cache"
    before = prepared(pets, "val", SMALL, cache_dir=cache_dir).images.copy()
    hurt(only_folder(cache_dir))
    after = prepared(pets, "val", SMALL, cache_dir=cache_dir)
    assert len(reads) == 6
    assert np.array_equal(before, after.images)
    assert only_folder(cache_dir).is_dir()


def test_a_cache_that_cannot_be_written_is_an_error_with_a_remedy(pets: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot write"):
        prepared(pets, "val", SMALL, cache_dir=tmp_path / "file")


def test_a_cache_that_another_process_finishes_first_is_taken_over(
    pets: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def beaten(path: Path) -> Iterator[Path]:
        with new_folder(path) as part:
            yield part
        raise UsageError("cannot write: Directory not empty", wanted="room", do="wait")

    monkeypatch.setattr(cache_module, "new_folder", beaten)
    assert len(prepared(pets, "val", SMALL, cache_dir=tmp_path)) == 3


BUILD = """
import sys
from pathlib import Path
from mobilenets.data import open_digits, store
kept = store(open_digits(), "train", side=28, channels=3, cache_dir=Path(sys.argv[1]))
print(len(kept), int(kept.blob.sum(dtype="int64")))
"""


def test_processes_that_make_the_same_cache_all_get_it(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", BUILD, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=300) for process in started]
    assert [errors for _, errors in answers] == [b""] * 3
    kept = store(open_digits(), "train", side=28, channels=3, cache_dir=tmp_path)
    assert {out.split()[0] for out, _ in answers} == {b"4000"}
    assert {int(out.split()[1]) for out, _ in answers} == {int(kept.blob.sum(dtype="int64"))}


SLOW = """
import sys, time
from pathlib import Path
from mobilenets.data import Split, open_digits, store
Split.read = lambda *given, **options: time.sleep(60)
store(open_digits(), "val", side=28, channels=3, cache_dir=Path(sys.argv[1]))
"""


def test_a_killed_process_leaves_no_half_cache(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)])
    try:
        deadline = time.monotonic() + 300  # a loaded machine takes its time to start a process
        while not list(tmp_path.glob(".*.part/pixels.bin")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(tmp_path.glob("store-*"))
    assert len(store(open_digits(), "val", side=28, channels=3, cache_dir=tmp_path)) == 500


def test_an_interrupt_leaves_nothing_behind(pets: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Split, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(pets, "train", SMALL, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
