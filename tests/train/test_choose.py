from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mobilenets.arch import find, with_channels
from mobilenets.data import Dataset, open_dataset
from mobilenets.data.memory import dataset_in_memory
from mobilenets.errors import UnknownNameError, UsageError
from mobilenets.train import Recipe
from mobilenets.train.choose import (
    explain_choice,
    native_side,
    preprocess_for,
    recipe_for,
    spec_for,
    store_side,
)


def in_memory(height: int, width: int, *, mirror_safe: bool = True) -> Dataset:
    part = (np.zeros((2, height, width, 3), np.uint8), np.arange(2), np.arange(2))
    return dataset_in_memory(
        "some", labels=("a", "b"), splits={"train": part, "val": part}, digest="0", mirror_safe=mirror_safe
    )


@pytest.mark.parametrize(("size", "side"), [((28, 28), 28), ((64, 80), 64), ((65, 65), None), ((40, 32), 32)])
def test_images_in_memory_are_small_up_to_64_pixels(size: tuple[int, int], side: int | None) -> None:
    assert native_side(in_memory(*size)) == side


@pytest.mark.parametrize(("pixels", "side"), [(16, 16), (64, 64), (65, None), (300, None)])
def test_images_in_files_are_small_up_to_64_pixels(
    pixels: int, side: int | None, tiny_run: ModuleType, tmp_path: Path
) -> None:
    assert native_side(open_dataset(tiny_run.make_folder(tmp_path / "data", side=pixels, each=4))) == side


def test_one_large_image_among_small_ones_makes_them_photos(tiny_run: ModuleType, tmp_path: Path) -> None:
    root = tiny_run.make_folder(tmp_path / "data", each=3)
    tiny_run.make_folder(tmp_path / "other", labels=("red",), side=200, each=5)
    for path in (tmp_path / "other" / "red").iterdir():
        path.rename(root / "red" / f"large-{path.name}")
    assert native_side(open_dataset(root)) is None


@pytest.mark.parametrize(
    ("name", "alpha", "resolution", "side", "made"),
    [
        ("mobilenet_v2", None, None, 28, "mobilenet_v2_1.0_28_s8"),
        ("mobilenet_v2", 0.5, None, 32, "mobilenet_v2_0.5_32_s8"),
        ("mobilenet_v2", None, None, None, "mobilenet_v2"),
        ("mobilenet_v2", None, 160, None, "mobilenet_v2_1.0_160"),
        ("mobilenet_v2", None, 96, 28, "mobilenet_v2_1.0_96"),
        ("mobilenet_v1_0.5_128", None, 32, 28, "mobilenet_v1_0.5_32_s8"),
        ("mobilenetv2_050", None, None, 28, "mobilenet_v2_0.5_28_s8"),
        ("timm/mobilenetv2_050", None, None, None, "mobilenet_v2_0.5_224"),
    ],
)
def test_small_images_keep_their_size_and_lose_early_strides_unless_told_otherwise(
    name: str, alpha: float | None, resolution: int | None, side: int | None, made: str
) -> None:
    spec = spec_for(name, alpha=alpha, resolution=resolution, native_side=side, classes=5)
    assert spec.name == made
    assert spec.head.classes == 5
    assert find(made).rows == spec.rows


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0_32", "mobilenet_v2_0.5_224", "mobilenet_v1_1.0_32_s4"])
def test_a_name_that_says_its_resolution_is_taken_at_its_word(name: str) -> None:
    spec = spec_for(name, native_side=28, classes=1000)
    assert spec.digest == find(name).digest


def test_a_table_given_as_such_keeps_its_numbers(tiny_run: ModuleType, tmp_path: Path) -> None:
    path = tiny_run.write_spec(tmp_path / "my.json")
    assert spec_for(str(path), native_side=28, classes=3) == tiny_run.tiny_spec()
    assert spec_for(find("mobilenet_v2"), native_side=28, classes=1000) == find("mobilenet_v2")


def test_a_table_given_as_such_changes_as_asked() -> None:
    spec = spec_for(find("mobilenet_v2"), alpha=0.5, resolution=28, native_side=28, classes=7)
    assert (spec.resolution, spec.head.classes, list(spec.placed())[-1].out_size) == (28, 7, 4)
    assert spec.name == "mobilenet_v2_0.5_28_s8"


def test_timms_narrow_v3_follows_the_images_too() -> None:
    spec = spec_for("mobilenetv3_small_050", native_side=28, classes=10)
    assert (spec.resolution, list(spec.placed())[-1].out_size) == (28, 4)


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0_224", "mobilenet_v2_0.5", "mobilenetv2_100"])
def test_alpha_beside_a_name_that_says_alpha_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="says its own"):
        spec_for(name, alpha=0.5, native_side=None, classes=2)


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="mobilenet_v2"):
        spec_for("mobilnet_v2", native_side=28, classes=2)


def test_the_choice_is_explained_in_one_line() -> None:
    spec = spec_for("mobilenet_v2", native_side=28, classes=10)
    assert explain_choice("mobilenet_v2", spec, native_side=28) == (
        "images are 28 pixels a side: mobilenet_v2 at 28 pixels with fewer strides: mobilenet_v2_1.0_28_s8"
    )
    whole = spec_for("mobilenet_v2", native_side=None, classes=10)
    assert explain_choice("mobilenet_v2", whole, native_side=None) == "images are photos: mobilenet_v2 at 224 pixels"


def test_photos_are_cropped_and_kept_larger_than_the_network_and_small_images_are_not() -> None:
    spec = find("mobilenet_v2")
    assert (preprocess_for(spec, native_side=None).crop_fraction, store_side(spec, native_side=None)) == (0.875, 280)
    small = find("mobilenet_v2_1.0_28_s8")
    assert (preprocess_for(small, native_side=28).crop_fraction, store_side(small, native_side=28)) == (1.0, 28)


def test_a_grey_network_gets_one_mean() -> None:
    preprocess = preprocess_for(with_channels(find("mobilenet_v2"), 1), native_side=None)
    assert (preprocess.channels, len(preprocess.mean)) == (1, 1)


def test_mirroring_goes_where_a_mirrored_image_is_another() -> None:
    recipe = Recipe(epochs=1)
    assert recipe_for(recipe, in_memory(8, 8)) == recipe
    assert not recipe_for(recipe, in_memory(8, 8, mirror_safe=False)).mirror
