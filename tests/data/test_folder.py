"""Claims about opening a folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from mobilenets.data import Dataset, open_dataset, open_folder
from mobilenets.data import duplicates as duplicates_module
from mobilenets.errors import DataError, UsageError

MakeFolder = Callable[[Mapping[str, int]], Path]


def lengths(dataset: Dataset) -> dict[str, int]:
    return {split: len(images) for split, images in dataset.splits.items()}


# --- layouts


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits_that_are_there_are_used_as_they_are(make_folder: MakeFolder, val: str) -> None:
    counts = {"train/cat": 3, "train/dog": 4, f"{val}/cat": 1, f"{val}/dog": 2, "test/cat": 2, "test/dog": 1}
    dataset = open_folder(make_folder(counts))
    assert lengths(dataset) == {"train": 7, "val": 3, "test": 3}
    assert dataset.labels == ("cat", "dog")
    assert dataset.splits["val"].targets.tolist() == [0, 1, 1]
    assert dataset.splits["val"].names == (f"{val}/cat/000.png", f"{val}/dog/000.png", f"{val}/dog/001.png")
    assert dataset.final_split == "test"
    assert dataset.name == "pets"


def test_class_folders_alone_are_split_class_by_class(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"cat": 20, "dog": 40, "owl": 3}))
    assert lengths(dataset) == {"train": 16 + 32 + 1, "val": 2 + 4 + 1, "test": 2 + 4 + 1}
    names = [name for split in dataset.splits.values() for name in split.names]
    assert len(set(names)) == 63


def test_val_is_drawn_from_train_so_that_test_stays_untouched(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 20, "train/dog": 20, "test/cat": 5, "test/dog": 5})
    dataset = open_folder(root)
    assert lengths(dataset) == {"train": 36, "val": 4, "test": 10}
    assert all(name.startswith("train/") for name in dataset.splits["val"].names)
    assert "val drawn from the training images with seed 0" in dataset.summary.describe()


def test_without_test_final_numbers_are_said_to_be_on_val(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1}))
    assert lengths(dataset) == {"train": 4, "val": 2}
    assert dataset.final_split == "val"
    assert "final numbers are numbers on val" in dataset.summary.describe()
    with pytest.raises(DataError, match="no split 'test'"):
        dataset.split("test")


def test_train_alone_gives_all_three(make_folder: MakeFolder) -> None:
    assert lengths(open_folder(make_folder({"train/cat": 10, "train/dog": 10}))) == {"train": 16, "val": 2, "test": 2}


def test_class_folders_that_are_a_split_of_the_folder_above_are_said_to_be_split_again(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 10, "train/dog": 10, "Test/cat": 10, "Test/dog": 10})
    assert lengths(open_folder(root / "Test")) == {"train": 16, "val": 2, "test": 2}
    assert f"Test/ lies beside train/ and is split again: to use it whole, name {root}" in (
        open_folder(root / "Test").summary.notes
    )
    assert "split again" not in open_folder(root).summary.describe()


def test_a_folder_that_is_no_split_of_anything_is_not_said_to_be_one(make_folder: MakeFolder) -> None:
    root = make_folder({"test/cat": 10, "test/dog": 10, "val/cat": 10, "val/dog": 10})  # without train, no data set
    assert "split again" not in open_folder(root / "test").summary.describe()


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"train": 5, "plane": 5, "car": 5}))
    assert dataset.labels == ("car", "plane", "train")


def test_labels_count_as_people_do(make_folder: MakeFolder) -> None:
    assert open_folder(make_folder({f"class{i}": 3 for i in (10, 2, 1)})).labels == ("class1", "class2", "class10")


def test_folders_inside_a_class_belong_to_it(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"cat/indoor/day": 3, "cat/outdoor": 3, "dog": 4}))
    assert sum(lengths(dataset).values()) == 10
    assert {name.split("/")[0] for split in dataset.splits.values() for name in split.names} == {"cat", "dog"}


def test_a_link_back_to_a_folder_above_ends_the_walk(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    (root / "cat" / "again").symlink_to(root / "cat")
    dataset = open_folder(root)
    assert sum(lengths(dataset).values()) == 6
    assert [(p.path, p.kind) for p in dataset.summary.problems] == [("cat/again/", "link to a folder above")]


def test_links_to_folders_elsewhere_are_followed(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    shutil.copytree(root / "cat", tmp_path / "elsewhere")
    (root / "owl").symlink_to(tmp_path / "elsewhere")
    assert open_folder(root).labels == ("cat", "dog", "owl")


def test_a_folder_given_relative_to_here_still_opens_from_elsewhere(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    monkeypatch.chdir(root.parent)
    dataset = open_folder("pets")
    monkeypatch.chdir("/")
    assert dataset.splits["train"].image(0).size == (12, 8)


# --- seeds and digests


def test_the_same_seed_gives_the_same_splits(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 30, "dog": 30})
    one, same, other = open_folder(root, seed=3), open_folder(root, seed=3), open_folder(root, seed=4)
    assert one.splits["val"].names == same.splits["val"].names != other.splits["val"].names
    assert one.digest == same.digest != other.digest


def test_the_seed_changes_nothing_where_nothing_is_drawn(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    assert open_folder(root, seed=1).digest == open_folder(root, seed=2).digest


def test_any_change_of_the_files_changes_the_digest(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 4, "dog": 4})
    seen = {open_folder(root).digest}

    def changed() -> bool:
        digest = open_folder(root).digest
        fresh = digest not in seen
        seen.add(digest)
        return fresh

    assert not changed()
    os.utime(root / "cat" / "000.png", ns=(1, 1))
    assert changed()
    (root / "cat" / "000.png").rename(root / "cat" / "other.png")
    assert changed()
    (root / "cat" / "other.png").unlink()
    assert changed()
    (root / "dog").rename(root / "wolf")
    assert changed()


def test_fractions_decide_the_sizes(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 20, "dog": 20})
    assert lengths(open_folder(root, val_fraction=0.3, test_fraction=0.25)) == {"train": 18, "val": 12, "test": 10}
    with pytest.raises(UsageError, match="fraction"):
        open_folder(root, val_fraction=0.6, test_fraction=0.5)


# --- what is refused


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(DataError, match="is a file"):
        open_folder(tmp_path / "file.zip")


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"": 0}, "holds no images"),
        ({"": 5}, "make a folder for each class"),
        ({"train": 5}, "one class: train"),
        ({"cat": 5}, "one class: cat"),
        ({"cat": 5, "dog": 0}, "there are no images in dog"),
        ({"cat": 0, "dog": 0}, "there are no images for train"),
        ({"cat": 2, "dog": 2}, "a class with at least 3 images"),
        ({"val/cat": 2, "test/cat": 2}, "no train"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1, "valid/dog": 1}, "one folder per split"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/cow": 1}, "train lacks: cow"),
        ({"train/cat": 2, "train/dog": 2, "val": 0}, "val holds no images"),
        ({"train/cat": 2, "train/dog": 2, "val": 3}, "val holds 3 images, but no folders"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 0}, "there are no images for val"),
        ({"train": 0, "val/cat": 1}, "train holds no images"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_what_to_do(
    make_folder: MakeFolder, counts: dict[str, int], says: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_folder(make_folder(counts))
    assert says in str(caught.value)
    assert caught.value.do


def test_class_folders_without_any_image_file_say_what_they_hold(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 0, "dog": 0})
    (root / "cat" / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"cat/a\.txt \(not an image file\)"):
        open_folder(root)


def test_mostly_empty_files_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    for index in range(7):
        (root / "cat" / f"empty{index}.jpg").touch()
    with pytest.raises(DataError, match="7 of 13 images"):
        open_folder(root)


# --- what is told


def test_a_class_that_val_lacks_is_noted(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1}))
    assert "val has no images of dog" in dataset.summary.notes
    assert dataset.summary.counts["val"] == {"cat": 1, "dog": 0}


def test_hidden_and_system_files_are_counted_and_nothing_more(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3, "__MACOSX/cat": 2, ".git": 1})
    for name in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "dog/._000.png"):
        (root / name).write_bytes(b"x")
    summary = open_folder(root).summary
    assert summary.ignored == 5 + 2 + 1
    assert summary.problems == ()


def test_what_lies_beside_the_folders_is_listed(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1, "extra": 1})
    shutil.copy(root / "extra" / "000.png", root / "loose.png")
    shutil.copy(root / "extra" / "000.png", root / "train" / "loose.png")
    (root / "readme.txt").write_text("x")
    found = {(problem.path, problem.kind) for problem in open_folder(root).summary.problems}
    assert found == {
        ("extra/", "outside a class folder"),
        ("loose.png", "outside a class folder"),
        ("train/loose.png", "outside a class folder"),
        ("readme.txt", "not an image file"),
    }


def test_an_image_in_both_train_and_test_is_noted(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 9, "train/dog": 9, "test/cat": 2, "test/dog": 2})
    assert not any("both" in note for note in open_folder(root).summary.notes)
    taken = open_folder(root).splits["train"].names[0]
    shutil.copy(root / taken, root / "test" / "dog" / "copy.png")
    assert "1 image appears in both train and test: test/dog/copy.png" in open_folder(root).summary.notes


def test_when_duplicates_are_too_many_to_look_for_it_is_said(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train/cat": 9, "train/dog": 9, "test/cat": 2, "test/dog": 2})
    shutil.copy(root / "train" / "cat" / "000.png", root / "test" / "cat" / "copy.png")
    monkeypatch.setattr(duplicates_module, "MAX_FILES", 1)
    assert any("were not looked for" in note for note in open_folder(root).summary.notes)


def test_names_that_are_not_text_can_be_printed(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    os.rename(os.fsencode(root / "cat" / "000.png"), os.fsencode(root / "cat") + b"/\xff.png")  # noqa: PTH104
    dataset = open_folder(root)
    names = [name for split in dataset.splits.values() for name in split.names]
    assert "cat/\\xff.png" in names
    for split in dataset.splits.values():
        assert all(split.image(index).size == (12, 8) for index in range(len(split)))


def test_capital_suffixes_are_images(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    (root / "cat" / "000.png").rename(root / "cat" / "000.PNG")
    assert open_folder(root).summary.problems == ()


# --- by name or by path


def test_an_unknown_name_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"neither a data set nor a folder.*did you mean digits"):
        open_dataset("digit")
    with pytest.raises(DataError, match="there is no folder"):
        open_dataset("./digit")


def test_a_name_wins_over_a_folder_unless_it_is_written_as_a_path(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    root.rename(root.parent / "digits")
    monkeypatch.chdir(root.parent)
    assert open_dataset("digits").labels == tuple("0123456789")
    assert open_dataset("./digits").labels == ("cat", "dog")
    assert open_dataset(Path("digits")).labels == ("cat", "dog")


def test_a_file_costs_a_few_calls_so_that_five_thousand_take_a_fraction_of_a_second(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(500):
            os.close(os.open(tmp_path / name / f"{index}.jpg", os.O_CREAT | os.O_WRONLY))
    os.truncate(tmp_path / "cat" / "0.jpg", 1)
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        with pytest.raises(DataError, match="999 of 1000"):
            open_folder(tmp_path)
    finally:
        sys.setprofile(None)
    assert calls < 40 * 1_000  # about 24 a file; one Path object for each would add 35


def test_targets_agree_with_folders(make_folder: MakeFolder) -> None:
    dataset = open_folder(make_folder({"a": 5, "b": 6, "c": 7}))
    for split in dataset.splits.values():
        named = [dataset.labels.index(name.split("/")[0]) for name in split.names]
        assert np.array_equal(split.targets, named)
