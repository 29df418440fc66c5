"""Claims about files that are broken, odd, or no images at all: each one is accounted for."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets import images
from mobilenets.arch import compose
from mobilenets.data import Dataset, Pixels, Store, open_folder, prepared, store
from mobilenets.errors import DataError
from mobilenets.records import Preprocess, to_json
from mobilenets.train import Recipe
from mobilenets.train.run import train_run

MakeFolder = Callable[[Mapping[str, int]], Path]
SMALL = Preprocess(resolution=16)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + zlib.compress(b"\0" * 100))


def rotated_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
ODD_FILES = {  # name -> content, what is told, and whether decoding finds it
    "empty.jpg": (b"", "empty", "left out"),
    "half.jpg": (encoded(PHOTO, "JPEG")[:1500], "truncated", "left out"),
    "half.png": (encoded(PHOTO, "PNG")[:1500], "truncated", "left out"),
    "text.jpg": (b"I am a text", "not an image", "left out"),
    "page.png": (b"<html></html>", "not an image", "left out"),
    "drawing.svg": (b"<svg/>", "not an image file", "left out"),
    "notes.txt": (b"cats", "not an image file", "left out"),
    "bomb.png": (bomb(), "too large", "left out"),
    "float.tiff": (encoded(Image.new("F", (8, 8)), "TIFF"), "unsupported pixels", "left out"),
    "cmyk.jpg": (encoded(PHOTO.convert("CMYK"), "JPEG"), "CMYK", "used"),
    "palette.png": (encoded(PHOTO.convert("P"), "PNG"), "palette", "used"),
    "clear.png": (encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 9)), "PNG"), "transparency", "used"),
    "deep.png": (encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"), "16-bit", "used"),
    "turned.jpg": (encoded(PHOTO, "JPEG", exif=rotated_exif()), "rotated", "used"),
    "moving.webp": (encoded(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(9)]), "first frame", "used"),
    "lab.tiff": (encoded(Image.new("YCbCr", (8, 8)), "TIFF"), "other colour space", "used"),
    "broken\nname.jpg": (b"", "empty", "left out"),
    "grey.png": (encoded(PHOTO.convert("L"), "PNG"), None, None),
    "wrong_suffix.jpg": (encoded(PHOTO, "PNG"), None, None),
}


@pytest.fixture
def odd(make_folder: MakeFolder) -> Path:
    root = make_folder({"train/cat": 12, "train/dog": 3, "val/cat": 2, "val/dog": 2})
    for name, (content, _, _) in ODD_FILES.items():
        (root / "train/cat" / name).write_bytes(content)
    (root / "train/cat/folder.jpg").mkdir()
    (root / "train/cat/nowhere.jpg").symlink_to("gone.jpg")
    (root / "train/cat/circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(root / "train/cat/pipe.jpg")
    (root / "train/cat/.DS_Store").write_bytes(b"x")
    return root


def test_a_folder_with_every_kind_of_bad_file_is_accounted_for_file_by_file(odd: Path, tmp_path: Path) -> None:
    dataset = open_folder(odd)
    kept = store(dataset, "train", side=32, channels=3, cache_dir=tmp_path / "cache")
    summary = dataset.summary.with_problems(kept.problems)
    told = {
        **{name.replace("\n", "\\x0a"): (kind, action) for name, (_, kind, action) in ODD_FILES.items() if kind},
        "folder.jpg/": ("empty folder", "left out"),
        **dict.fromkeys(["nowhere.jpg", "circle.jpg", "pipe.jpg"], ("unreadable", "left out")),
    }
    assert {
        problem.path.removeprefix("train/cat/"): (problem.kind, problem.action) for problem in summary.problems
    } == told
    assert len(summary.problems) == len(told)
    files = sum(len(names) for _, _, names in os.walk(odd)) + 1  # the empty folder is accounted for, too
    left_out = sum(problem.action == "left out" for problem in summary.problems)
    assert sum(map(summary.total, summary.counts)) + left_out + summary.ignored == files
    assert summary.counts["train"] == {"cat": len([name for name in kept.names if "/cat/" in name]), "dog": 3}
    assert len(kept) == summary.total("train")
    assert json.loads(json.dumps(to_json(summary)))["ignored"] == 1
    assert f"{left_out} left out" in summary.describe()


def test_those_kept_are_the_right_pixels_under_the_right_name(odd: Path, tmp_path: Path) -> None:
    kept = store(open_folder(odd), "train", side=32, channels=3, cache_dir=tmp_path / "cache")
    for index, name in enumerate(kept.names):
        expected = images.shrink(images.decode(odd / name, at_least=32), shorter_side=32)
        assert np.array_equal(kept.pixels(index), images.as_array(expected))
        assert kept.targets[index] == (0 if "/cat/" in name else 1)
    assert kept.pixels(kept.names.index("train/cat/turned.jpg")).shape == (43, 32, 3)


@pytest.mark.parametrize("kind", ["prepared", "store"])
def test_the_second_run_reports_the_same_problems(odd: Path, tmp_path: Path, reads: list[int], kind: str) -> None:
    def opened() -> Pixels | Store:
        dataset = open_folder(odd)
        if kind == "store":
            return store(dataset, "train", side=32, channels=3, cache_dir=tmp_path / "cache")
        return prepared(dataset, "train", SMALL, cache_dir=tmp_path / "cache")

    first = opened()
    decoded = len(reads)
    again = opened()
    assert len(reads) == decoded
    assert first.problems == again.problems
    assert len(first.problems) == 13
    assert len(first) == len(again) == len(first.targets)


def test_more_broken_images_than_whole_ones_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    for index in range(4):
        (root / "train/cat" / f"bad{index}.jpg").write_bytes(b"no")
    assert len(prepared(open_folder(root), "train", SMALL, cache_dir=tmp_path / "cache")) == 4
    (root / "train/cat/bad5.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match=r"5 of 9 images of train.*bad0\.jpg \(not an image\)"):
        prepared(open_folder(root), "train", SMALL, cache_dir=tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_class_to_train_on_with_no_whole_image_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/cat": 5, "train/dog": 0, "val/cat": 1, "val/dog": 1})
    (root / "train/dog/bad.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match="no image of dog"):
        prepared(open_folder(root), "train", SMALL, cache_dir=tmp_path / "cache")


def test_a_file_that_goes_away_after_opening_is_left_out(pets: Dataset, tmp_path: Path) -> None:
    path = pets.split("train").path(1)
    assert path is not None
    path.unlink()
    pixels = prepared(pets, "train", SMALL, cache_dir=tmp_path)
    assert len(pixels) == 8
    assert [(problem.path, problem.kind) for problem in pixels.problems] == [("train/cat/001.png", "unreadable")]


@pytest.mark.shared
def test_real_photos_go_through_folder_and_cache(shared_data: Path, tmp_path: Path) -> None:
    for label, names in {
        "animals": ["cat.png", "owl.jpg", "parrot.jpg"],
        "other": ["sunflower.png", "hot_dog.jpg"],
    }.items():
        for split in ("train", "val"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for name in names:
                (tmp_path / "set" / split / label / name).symlink_to(shared_data / "official" / name)
    dataset = open_folder(tmp_path / "set")
    assert any("5 images appear in both train and val" in note for note in dataset.summary.notes)
    kept = store(dataset, "train", side=128, channels=3, cache_dir=tmp_path / "cache")
    assert len(kept) == 5
    assert (kept.sizes.min(axis=1) <= 128).all()


def test_a_folder_with_bad_files_trains_and_tells_of_each(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_folder(odd)
    outcome = train_run(
        compose("mobilenet_v2", alpha=0.1, resolution=16, stride="small", classes=2),
        dataset,
        Recipe(epochs=1.0, batch_size=8, precision="fp32"),
        out=tmp_path / "run",
        device="cpu",
    )
    assert outcome.finished
    said = capsys.readouterr().err
    for kind in ("left out", "used", "truncated", "CMYK"):
        assert kind in said
