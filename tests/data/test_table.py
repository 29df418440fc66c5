"""Tables of images with any number of labels each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.data import open_dataset, prepared, store
from mobilenets.errors import DataError
from mobilenets.records import Preprocess

MakeTable = Callable[..., Path]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """A folder with `labels.csv` of these lines, and a picture for every `.png` that they name."""

    def make(header: str, lines: Sequence[str], *, folder: str = "shapes", only: Sequence[str] | None = None) -> Path:
        root = tmp_path / folder
        rng = np.random.default_rng(0)
        named = [line.split(",")[0] for line in lines] if only is None else only
        for name in dict.fromkeys(named):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
        root.mkdir(exist_ok=True)
        (root / "labels.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return root

    return make


def cells(count: int, *, seed: int = 0, shares: Mapping[str, float] | None = None) -> list[str]:
    """Lines `imgs/3.png,1,0` with labels at these shares."""
    shares = shares or {"red": 0.5, "square": 0.3}
    has = np.random.default_rng(seed).random((count, len(shares))) < np.array(list(shares.values()))
    return [f"imgs/{number}.png," + ",".join(str(int(cell)) for cell in row) for number, row in enumerate(has)]


def test_a_table_says_labels_splits_and_what_nobody_knows(make_table: MakeTable) -> None:
    lines = ["a.png,train,1,0", "b.png,Train,,1", "sub/c.png,val,0,1", "d.png,test,1,"]
    dataset = open_dataset(make_table("file,split,red,square", lines))
    assert (dataset.task, dataset.labels, dataset.name) == ("multilabel", ("red", "square"), "shapes")
    assert {split: part.names for split, part in dataset.splits.items()} == {
        "train": ("a.png", "b.png"),
        "val": ("sub/c.png",),
        "test": ("d.png",),
    }
    np.testing.assert_array_equal(dataset.split("train").targets, np.array([[1, 0], [np.nan, 1]], np.float32))
    assert dataset.summary.counts["train"] == {"red": 1, "square": 1}
    assert dataset.summary.total("train") == 2
    assert "4 images with 2 labels (train 2, val 1, test 1)" in dataset.summary.describe()
    assert "val has no images with red" in dataset.summary.notes
    assert "2 of 8 cells are not known" in dataset.summary.notes


def test_the_table_itself_and_its_folder_are_the_same_data_set(make_table: MakeTable) -> None:
    root = make_table("file,red,square", cells(20))
    by_folder, by_file = open_dataset(root), open_dataset(root / "labels.csv")
    assert by_folder.digest == by_file.digest
    assert by_folder.split("val").path(0).is_file()


def test_class_folders_keep_their_meaning_beside_a_table(make_table: MakeTable) -> None:
    names = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)]
    root = make_table("file,furry", [f"{name},{n % 2}" for n, name in enumerate(names)])
    assert (open_dataset(root).task, open_dataset(root).labels) == ("classify", ("cat", "dog"))
    assert open_dataset(root / "labels.csv").labels == ("furry",)
    bare = make_table("file,furry", [f"train/{n}.png,1" for n in range(4)] + ["test/a.png,1"], folder="bare")
    assert open_dataset(bare).task == "multilabel"  # folders of splits, with no classes in them


def test_drawn_splits_hold_every_label_and_do_not_depend_on_the_order_of_rows(make_table: MakeTable) -> None:
    lines = cells(200, shares={"common": 0.6, "rare": 0.06, "middle": 0.25})
    root = make_table("file,common,rare,middle", lines)
    first, other = open_dataset(root), open_dataset(root, seed=1)
    (root / "labels.csv").write_text("\n".join(["file,common,rare,middle", *reversed(lines)]))
    again = open_dataset(root)
    assert again.digest == first.digest
    assert {s: p.names for s, p in again.splits.items()} == {s: p.names for s, p in first.splits.items()}
    assert other.split("val").names != first.split("val").names
    assert sum(map(len, first.splits.values())) == 200
    assert all(n > 0 for of_split in first.summary.counts.values() for n in of_split.values())
    whole = np.concatenate([part.targets for part in first.splits.values()]).mean(axis=0)
    assert np.abs(first.split("train").targets.mean(axis=0) - whole).max() < 0.03
    assert {len(first.split("val")), len(first.split("test"))} <= set(range(16, 25))


def test_a_split_that_the_table_lacks_is_drawn_from_train(make_table: MakeTable) -> None:
    lines = [f"{n}.png,{'test' if n < 5 else 'train'},{n % 2},1" for n in range(45)]
    dataset = open_dataset(make_table("file,split,odd,all", lines))
    assert sorted(map(len, dataset.splits.values())) == [4, 5, 36]
    assert set(dataset.split("test").names) == {f"{n}.png" for n in range(5)}
    assert "train has no images without all" in dataset.summary.notes


def test_caches_keep_labels_and_leave_broken_images_out(make_table: MakeTable, tmp_path: Path) -> None:
    lines = [f"{n}.png,train,{n % 2},{'' if n < 3 else 0 if n < 9 else 1}" for n in range(12)]
    root = make_table("file,split,odd,late", [*lines, "v.png,val,1,1"])
    (root / "4.png").write_bytes(b"no image")
    dataset = open_dataset(root)
    kept = store(dataset, "train", side=8, channels=3, cache_dir=tmp_path / "cache")
    again = store(dataset, "train", side=8, channels=3, cache_dir=tmp_path / "cache")
    assert kept.targets.shape == (11, 2)
    assert kept.targets.dtype == np.float32
    np.testing.assert_array_equal(kept.targets, again.targets)
    np.testing.assert_array_equal(kept.targets, np.delete(dataset.split("train").targets, kept_out(kept.names), axis=0))
    assert dataset.summary.with_problems(kept.problems).total("train") == 11
    pixels = prepared(dataset, "val", Preprocess(resolution=8), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(pixels.targets, [[1, 1]])


def kept_out(names: Sequence[str]) -> int:
    """Where the image 4.png stands in the order of names."""
    ordered = sorted([*names, "4.png"])
    return ordered.index("4.png")


def test_a_label_whose_only_images_are_broken_is_told(make_table: MakeTable, tmp_path: Path) -> None:
    lines = [f"{n}.png,train,{int(n == 4)},1" for n in range(12)]
    root = make_table("file,split,one,all", [*lines, "v.png,val,1,1"])
    (root / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image of one in"):
        store(open_dataset(root), "train", side=8, channels=3, cache_dir=tmp_path / "cache")


WHOLE = ["a.png,1,1", "b.png,0,1", "c.png,1,0", "d.png,1,1", "e.png,1,1"]


@pytest.mark.parametrize(
    ("header", "lines", "told"),
    [
        ("file,red,blue", [*WHOLE[:2], "a.png,1,0"], r"line 4: a\.png was there before"),
        ("file,red,blue", [*WHOLE, "gone.png,1,0"], r"1 of 6 files .* not there: gone\.png \(line 7\)"),
        ("file,red,blue", [*WHOLE, "f.png,yes,0"], r"line 7: red is 'yes'; 1 \(has it\), 0"),
        ("file,red,blue", [*WHOLE, "f.png,-1,0"], "red is '-1'"),
        ("file,red,blue", [*WHOLE, "f.png,1"], "line 7 has 2 cells; 3"),
        ("file,red,blue", [*WHOLE, ",1,1"], "line 7 names no file"),
        ("file,red,red", WHOLE, "the same twice: red"),
        ("file,red,", WHOLE, r"no name"),
        ("file", ["a.png"], "has no label columns"),
        ("file,split", ["a.png,train"], "has no label columns"),
        ("path;red", ["a.png;1"], "has no column 'file': its first line is 'path;red'"),
        ("file,red,blue", [], "has no rows"),
        ("file,split,blue", ["a.png,dev,1"], "the split is 'dev'; train, val or test"),
        ("file,split,blue", ["a.png,val,1"], "has no row of train"),
        ("file,split,red,blue", ["a.png,train,0,1", "b.png,val,1,1"], "no training image has red"),
        ("file,split,blue", ["a.png,train,1", "b.png,val,0"], "no image of val has any label"),
        ("file,red,blue", WHOLE[:2], "too few images to draw val and test: 2"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(
    make_table: MakeTable, header: str, lines: list[str], told: str
) -> None:
    only = [name for line in lines if (name := line.split(",")[0]).endswith(".png") and name != "gone.png"]
    with pytest.raises(DataError, match=told) as error:
        open_dataset(make_table(header, lines, only=only))
    assert error.value.exit_code == 2


def test_a_table_that_is_no_text_or_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,caf\xe9\na.png,1\n")
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read: .*No such file"):
        open_dataset(tmp_path / "other.csv")
