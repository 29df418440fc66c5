"""Claims about decoding; preprocessing is in test_images_prepare.py."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from mobilenets import images
from mobilenets.errors import DataError, UsageError
from mobilenets.records import Preprocess

CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))  # top left, top right, bottom left, bottom right


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A smooth colour picture without symmetry; small details would not survive JPEG."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(5 * x + 2 * y), np.cos(4 * y - x), np.sin(3 * x * y + 1)]
    return Image.fromarray(np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1))


def quarters() -> Image.Image:
    """Four colours; width and height differ, so that a turn shows."""
    image = Image.new("RGB", (40, 24))
    for index, colour in enumerate(CORNERS):
        image.paste(colour, (20 * (index % 2), 12 * (index // 2), 20 * (index % 2) + 20, 12 * (index // 2) + 12))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def difference(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


# --- what becomes RGB or grey


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_becomes_rgb_or_grey_of_its_size(kind: str, channels: int) -> None:
    image = images.decode(encoded(picture(), kind), channels=channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert image.size == (64, 48)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "La", "RGBa"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_an_image_in_memory_is_converted(mode: str, channels: int) -> None:
    grey_first = {"LA": "L", "La": "LA", "PA": "P", "RGBa": "RGBA"}
    image = picture().convert(grey_first.get(mode, mode)).convert(mode)
    assert images.decode(image, channels=channels).mode == {1: "L", 3: "RGB"}[channels]


def test_a_png_keeps_its_pixels_bit_for_bit() -> None:
    result = images.read(encoded(picture(), "PNG"))
    assert isinstance(result, images.Decoded)
    assert result.notes == ()
    assert np.array_equal(result.image, picture())


def test_a_cmyk_jpeg_becomes_rgb_with_the_same_colours() -> None:
    result = images.read(encoded(quarters().convert("CMYK"), "JPEG", quality=95))
    assert isinstance(result, images.Decoded)
    assert result.notes == ("CMYK",)
    assert difference(result.image, quarters()) < 6


def test_transparent_pixels_of_a_palette_become_white() -> None:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.paste(1, (4, 0, 8, 4))
    result = images.read(encoded(image, "PNG", transparency=0))
    assert isinstance(result, images.Decoded)
    assert result.notes == ("palette", "transparency")
    assert result.image.getpixel((0, 0)) == (255, 255, 255)
    assert result.image.getpixel((7, 0)) == (200, 10, 10)


def test_a_palette_with_transparency_for_each_colour_warns_nobody() -> None:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    assert images.decode(encoded(image, "PNG", transparency=b"\x00\xff")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))])
def test_transparency_is_laid_on_white(mode: str, colour: tuple[int, ...]) -> None:
    assert images.decode(encoded(Image.new(mode, (5, 5), colour), "PNG")).getpixel((2, 2)) == (255, 255, 255)
    half = (*colour[:-1], 128)
    assert images.decode(encoded(Image.new(mode, (5, 5), half), "PNG")).getpixel((2, 2)) == (127, 127, 127)


def test_an_alpha_channel_that_hides_nothing_changes_nothing() -> None:
    result = images.read(encoded(picture().convert("RGBA"), "PNG"))
    assert isinstance(result, images.Decoded)
    assert result.notes == ()
    assert np.array_equal(result.image, picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    result = images.read(encoded(Image.fromarray(ramp), kind), channels=1)
    assert isinstance(result, images.Decoded)
    assert result.notes == ("16-bit",)
    assert np.array_equal(np.asarray(result.image).ravel(), np.arange(256))


def test_sixteen_bits_in_32_bit_integers_are_scaled_too() -> None:
    image = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
    assert np.asarray(images.decode(image, channels=1)).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    "pixels", [np.ones((4, 4), np.float32), np.full((4, 4), 70_000, np.int32), np.full((4, 4), -1, np.int32)]
)
def test_pixels_without_a_known_range_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match="8-bit"):
        images.decode(encoded(Image.fromarray(pixels), "TIFF"))


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.new("1", (4, 2), 1)
    image.putpixel((0, 0), 0)
    assert sorted(set(np.asarray(images.decode(encoded(image, "PNG"), channels=1)).ravel().tolist())) == [0, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in CORNERS[:3]]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    result = images.read(data)
    assert isinstance(result, images.Decoded)
    assert "first frame" in result.notes
    assert result.image.getpixel((10, 5)) == CORNERS[0]


# --- orientation


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_put_upright(orientation: int, kind: str) -> None:
    turned = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](quarters())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    image = images.decode(encoded(turned, kind, exif=exif, **options))
    assert image.size == (40, 24)
    assert difference(image, quarters()) < (3 if kind == "JPEG" else 1e-9)


def test_decoding_what_was_decoded_does_not_turn_it_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = images.decode(encoded(quarters(), "PNG", exif=exif))
    assert np.array_equal(images.decode(once), once)
    assert once.size == (24, 40)


def test_broken_exif_is_no_reason_to_lose_the_picture() -> None:
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01garbage"
    for kind in ("JPEG", "WEBP"):
        assert images.decode(encoded(picture(), kind, exif=broken)).size == (64, 48)


# --- what cannot be used


def jpeg() -> bytes:
    return encoded(picture(200, 150), "JPEG", quality=95)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (jpeg()[: len(jpeg()) // 2], "truncated"),
        (encoded(picture(), "PNG")[:300], "truncated"),
        (encoded(picture(), "WEBP")[:100], "damaged"),
        (encoded(picture(), "GIF")[:900], "truncated"),
        (encoded(picture(), "BMP")[:900], "truncated"),
        (b"this is a text", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (jpeg()[:10], "truncated"),
        (png_that_claims(60_000, 60_000), "too large"),
        (png_that_claims(10_001, 10_001), "too large"),
        (png_that_claims(10_000, 9_500), "truncated"),  # within our limit, above the one Pillow warns at
        (png_that_claims(0, 10), "not an image"),
    ],
)
def test_what_cannot_be_used_is_named_in_memory_and_as_a_file(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for source in (content, path):
        fault = images.read(source)
        assert isinstance(fault, images.Fault)
        assert fault.kind == kind
        with pytest.raises(DataError) as caught:
            images.decode(source)
        assert caught.value.wanted
        assert caught.value.do
    assert "photo.jpg" in str(caught.value)


def test_a_header_that_claims_too_much_is_refused_before_any_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: tried.append(image.size))
    for side in (60_000, 640):
        images.read(png_that_claims(side, side))
    assert tried == [(640, 640)]


def test_files_that_are_not_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    for name in ("folder.jpg", "pipe.jpg", "nothing.jpg", "circle.jpg", "missing.jpg", "null\0.jpg", "x" * 300):
        fault = images.read(tmp_path / name)
        assert isinstance(fault, images.Fault)
        assert fault.kind == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(jpeg())
    path.chmod(0)
    with pytest.raises(DataError, match="permission"):
        images.decode(path)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    fault = images.read(path)
    assert isinstance(fault, images.Fault)
    assert fault.kind == "too large"


@pytest.mark.parametrize("source", ["photo.jpg", None, 3])
def test_another_type_of_source_is_bad_use(source: object) -> None:
    with pytest.raises(UsageError, match=r"Path\(\.\.\.\)"):
        images.read(source)  # type: ignore[arg-type]


def test_two_channels_are_bad_use() -> None:
    with pytest.raises(UsageError):
        images.decode(picture(), channels=2)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
def test_bytes_changed_at_random_give_an_image_or_a_fault_and_nothing_else(data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(picture(16, 12), kind))
    for position in data.draw(st.lists(st.integers(0, min(len(content), 400) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    assert isinstance(images.read(bytes(content)), images.Decoded | images.Fault)


# --- no traces


def test_threads_that_meet_warnings_leave_the_filters_alone() -> None:
    broken_exif = encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01garbage")
    sources = [broken_exif, png_that_claims(10_001, 10_001), encoded(picture(), "TIFF")] * 40
    before, limit, truncated = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(images.read, sources))
    assert warnings.filters == before
    assert (limit, truncated) == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_the_callers_image_is_not_changed() -> None:
    mine = Image.open(io.BytesIO(encoded(picture(400, 300), "JPEG")))
    images.load(mine, Preprocess(resolution=16))
    assert mine.size == (400, 300)
