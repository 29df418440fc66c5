"""Claims about preprocessing: what a network is fed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilenets import images
from mobilenets.errors import DataError
from mobilenets.records import Preprocess


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A smooth colour picture without symmetry; small details would not survive JPEG."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(5 * x + 2 * y), np.cos(4 * y - x), np.sin(3 * x * y + 1)]
    return Image.fromarray(np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


# --- large JPEGs


def test_a_large_jpeg_is_decoded_smaller_but_keeps_twice_what_is_wanted() -> None:
    content = encoded(picture(1601, 1200), "JPEG", quality=95)
    for wanted, size in ((601, (1601, 1200)), (300, (801, 600)), (150, (401, 300)), (70, (201, 150)), (1, (201, 150))):
        assert images.decode(content, at_least=wanted).size == size


@pytest.mark.parametrize("resolution", [32, 96, 160, 224])
def test_decoding_smaller_gives_nearly_the_same_pixels(resolution: int) -> None:
    content = encoded(picture(1600, 1200), "JPEG", quality=95)
    preprocess = Preprocess(resolution=resolution, crop_fraction=0.875)
    assert difference(images.load(content, preprocess), images.prepare(images.decode(content), preprocess)) < 1.0


def test_a_jpeg_less_than_four_times_as_large_is_decoded_in_full() -> None:
    content, preprocess = encoded(picture(890, 890), "JPEG"), Preprocess(resolution=224)
    assert np.array_equal(images.load(content, preprocess), images.prepare(images.decode(content), preprocess))


# --- prepare


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    resolution=st.integers(1, 96),
    crop_fraction=st.floats(0.05, 1.0),
    resize=st.sampled_from(["shorter_side", "stretch"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_becomes_a_square_of_the_resolution(
    width: int, height: int, resolution: int, crop_fraction: float, resize: str, interpolation: str, channels: int
) -> None:
    preprocess = Preprocess(
        resolution=resolution,
        channels=channels,
        crop_fraction=crop_fraction,
        resize=resize,  # type: ignore[arg-type]
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    mode = {1: "L", 3: "RGB"}[channels]
    pixels = images.prepare(Image.new(mode, (width, height), 77 if channels == 1 else (77, 77, 77)), preprocess)
    assert pixels.shape == (resolution, resolution, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert (pixels == 77).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", ["shorter_side", "stretch"])
def test_an_image_of_the_right_size_passes_bit_for_bit(resize: str, interpolation: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    preprocess = Preprocess(resolution=48, resize=resize, interpolation=interpolation)  # type: ignore[arg-type]
    assert np.array_equal(images.prepare(Image.fromarray(noise), preprocess), noise)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 480), (50, 40), (257, 256)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_prepare_is_resizing_followed_by_a_centre_crop(size: tuple[int, int], interpolation: str) -> None:
    preprocess = Preprocess(resolution=112, crop_fraction=0.875, interpolation=interpolation)  # type: ignore[arg-type]
    image, side = picture(*size), 128
    scaled = tuple(round(length * side / min(size)) for length in size)
    whole = image.resize(scaled, Image.Resampling[interpolation.upper()])
    left, top = ((length - 112) // 2 for length in scaled)
    cropped = np.asarray(whole.crop((left, top, left + 112, top + 112)), dtype=int)
    assert np.abs(images.prepare(image, preprocess) - cropped).max() <= 1


def test_stretching_keeps_all_four_corners_and_the_other_way_keeps_the_middle() -> None:
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    middle = images.prepare(image, Preprocess(resolution=30))
    stretched = images.prepare(image, Preprocess(resolution=30, resize="stretch"))
    assert (middle == (0, 0, 255)).all()
    assert stretched[0, 0].tolist() == stretched[-1, -1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1)])
def test_a_thin_strip_costs_no_more_than_a_photo(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    strip, made = Image.new("RGB", size), []
    new = Image.Image._new

    def counted(self: Image.Image, core: Any) -> Image.Image:
        made.append(core.size[0] * core.size[1])
        return new(self, core)

    monkeypatch.setattr(Image.Image, "_new", counted)
    assert images.prepare(strip, Preprocess(resolution=224)).shape == (224, 224, 3)
    assert sum(made) == 224 * 224  # scaled as a whole it would have 224 x 11,200,000 pixels


def test_another_mode_than_the_preprocess_wants_is_refused() -> None:
    with pytest.raises(DataError, match="channels=3"):
        images.prepare(picture().convert("L"), Preprocess(resolution=8))


def test_a_choice_that_nobody_knows_raises() -> None:
    with pytest.raises(AssertionError):
        images.prepare(picture(), Preprocess(resolution=8, resize="squeeze"))  # type: ignore[arg-type]


def test_shrinking_keeps_the_aspect_and_never_scales_up() -> None:
    assert images.shrink(picture(200, 100), shorter_side=50).size == (100, 50)
    small = picture(40, 30)
    assert images.shrink(small, shorter_side=50) is small


# --- real photos


@pytest.mark.shared
def test_real_photos_come_out_alike_decoded_in_full_or_smaller(shared_data: Path) -> None:
    folder = shared_data / "official"
    files = sorted([*folder.glob("*.jpg"), *folder.glob("*.png")])
    assert files
    preprocess = Preprocess(resolution=96, crop_fraction=0.875)
    for path in files:
        quick = images.load(path, preprocess)
        assert "mask" in path.name or quick.std() > 5
        assert difference(quick, images.prepare(images.decode(path), preprocess)) < 2.5
