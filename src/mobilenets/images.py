"""Decoding and preprocessing: the one implementation that training, validation, gates, predict and bench share.

    source ── read / decode ──▶ upright RGB or grey image ── prepare ──▶ uint8 (resolution, resolution, channels)

`load` is the whole line. No torch: the field half runs this with numpy and Pillow alone. Colour profiles are not
applied, as in the libraries that published weights were trained with.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import DataError, UsageError
from .records import Interpolation, Preprocess

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "Decoded",
    "Fault",
    "FaultKind",
    "Note",
    "Source",
    "as_array",
    "decode",
    "load",
    "prepare",
    "read",
    "scaled_side",
    "shrink",
]

Source: TypeAlias = Path | bytes | Image.Image
FaultKind = Literal["empty", "truncated", "damaged", "not an image", "too large", "unsupported pixels", "unreadable"]
Note = Literal["CMYK", "palette", "transparency", "16-bit", "rotated", "first frame", "other colour space"]

# What phones, cameras and the web produce. Pillow knows more kinds; EPS, for one, would start another program.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 100_000_000  # a phone's largest photo; 300 MB once decoded, so two at a time still fit a small machine
MAX_BYTES = 8 * MAX_PIXELS  # a file cannot need more: MAX_PIXELS uncompressed with four 16-bit channels

_MODES = {1: "L", 3: "RGB"}
_RESAMPLING: dict[Interpolation, Image.Resampling] = {  # a name that is missing here raises
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_TURNS = {  # EXIF orientation -> what puts the image upright; 1 needs nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_WARNINGS = threading.Lock()  # warning filters belong to the whole process


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why an image cannot be used."""

    kind: FaultKind
    got: str
    wanted: str
    do: str

    def error(self) -> DataError:
        """The same as an exception."""
        return DataError(self.got, wanted=self.wanted, do=self.do)


@dataclass(frozen=True, eq=False, slots=True)
class Decoded:
    """An upright image of mode RGB or L, and what was done to get there."""

    image: Image.Image
    notes: tuple[Note, ...] = ()


def read(source: Source, *, channels: int = 3, at_least: int | None = None) -> Decoded | Fault:
    """Decode an image, or say why it cannot be; for callers that go on after a broken file.

    EXIF orientation is applied. CMYK, palette, 1-bit and 16-bit grey (scaled, not clipped; 0..65535 becomes 0..255)
    are converted. Of an animation the first frame is taken. Transparent pixels are laid on white: the colours below
    them are arbitrary, often black, and white is what people see around such a picture on a page.

    Args:
        source: a file, an encoded image, or an image. An image that needs no change is returned as it is, not copied.
        channels: 3 gives RGB, 1 gives grey.
        at_least: the shorter side, in pixels, that the caller scales down to. A JPEG at least four times larger is
            then decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster; the result keeps at least
            twice `at_least`, so that the caller's own resampling decides the quality.

    Raises:
        UsageError: `channels` is not 1 or 3, or the source is of another type.
    """
    if channels not in _MODES:
        raise UsageError(f"channels is {channels!r}", wanted="1 (grey) or 3 (RGB)", do="choose one")
    content: bytes | Image.Image | Fault
    match source:
        case Image.Image():
            name, content = "the image", source
        case bytes():
            name, content = "the image", source
        case Path():
            name, content = str(source), _content(source)
        case _:
            raise UsageError(
                f"an image source is of type {type(source).__name__}",
                wanted="a pathlib.Path, bytes, or a PIL image",
                do="wrap a file name in Path(...)",
            )
    opened = _opened(content, name) if isinstance(content, bytes) else content
    if isinstance(opened, Fault):
        return opened
    if fault := _size_fault(opened, name):
        return fault
    # Only a JPEG that nobody else holds: drafting changes the image in place.
    if at_least is not None and opened is not source and opened.format in ("JPEG", "MPO"):
        opened.draft(None, (2 * at_least, 2 * at_least))
    animated = _is_animated(opened)
    return _load_fault(opened, name) or _converted(opened, name, _MODES[channels], animated=animated)


def decode(source: Source, *, channels: int = 3, at_least: int | None = None) -> Image.Image:
    """`read`, where a broken image is an error.

    Raises:
        DataError: the image is missing, empty, truncated, not an image, too large, or of pixels with no known range.
    """
    result = read(source, channels=channels, at_least=at_least)
    if isinstance(result, Fault):
        raise result.error()
    return result.image


def scaled_side(preprocess: Preprocess) -> int:
    """The shorter side after resizing and before the centre crop, in pixels."""
    return round(preprocess.resolution / preprocess.crop_fraction)


def prepare(image: Image.Image, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Resize and centre-crop a decoded image; antialiased when it gets smaller, scaled up when it is too small.

    Only the part that the crop keeps is computed, so a strip of 1 x 50,000 pixels costs no more than a photo.

    Returns:
        uint8 (resolution, resolution, channels), C-contiguous, writable. The image's own pixels, bit for bit, when it
        has that size already and nothing is cropped.

    Raises:
        DataError: the image's mode is not the one of `preprocess.channels`; `decode` gives the right one.
    """
    mode = _MODES[preprocess.channels]
    if image.mode != mode:
        raise DataError(
            f"an image has mode {image.mode}",
            wanted=f"{mode}, for channels = {preprocess.channels}",
            do=f"call decode(image, channels={preprocess.channels}) first, or use load",
        )
    width, height = image.size
    size, side = preprocess.resolution, scaled_side(preprocess)
    match preprocess.resize:
        case "shorter_side":
            shorter = min(width, height)
            full_width, full_height = round(width * side / shorter), round(height * side / shorter)
        case "stretch":
            full_width = full_height = side
        case other:  # msgspec checks records that are read, not those that are made
            assert_never(other)
    left, top = (full_width - size) // 2, (full_height - size) // 2
    box = (
        left * width / full_width,
        top * height / full_height,
        (left + size) * width / full_width,
        (top + size) * height / full_height,
    )
    return as_array(image.resize((size, size), _RESAMPLING[preprocess.interpolation], box=box))


def load(source: Source, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """From an image file to the pixels an artifact is fed: `decode`, then `prepare`.

    Returns:
        uint8 (resolution, resolution, channels).

    Raises:
        DataError: the image cannot be used.
    """
    return prepare(decode(source, channels=preprocess.channels, at_least=scaled_side(preprocess)), preprocess)


def shrink(image: Image.Image, *, shorter_side: int) -> Image.Image:
    """Scale down so that the shorter side is `shorter_side` pixels; a smaller image is returned as it is."""
    width, height = image.size
    shorter = min(width, height)
    if shorter <= shorter_side:
        return image
    size = (round(width * shorter_side / shorter), round(height * shorter_side / shorter))
    return image.resize(size, _RESAMPLING["bilinear"])


def as_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of an RGB or grey image as uint8 (height, width, channels), copied and writable."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels.reshape(image.height, image.width, -1)


def _content(path: Path) -> bytes | Fault:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            return _unreadable(f"{path} is {what}")
        if status.st_size > MAX_BYTES:
            return _too_large(f"{path} holds {status.st_size:,} bytes", limit=f"{MAX_BYTES:,} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return _unreadable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _opened(content: bytes, name: str) -> Image.Image | Fault:
    if not content:
        return Fault(kind="empty", got=f"{name} is empty", wanted="an image", do="copy it again, or remove it")
    try:
        with _quiet():
            return Image.open(io.BytesIO(content), formats=_formats())
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return Fault(
            kind="not an image",
            got=f"{name} is not an image that can be read",
            wanted="one of " + ", ".join(_formats()),
            do="convert it to JPEG or PNG, or remove it",
        )
    except Image.DecompressionBombError as error:
        return _too_large(f"{name}: {error}")
    except Exception as error:  # a reader that meets a broken header raises anything from KeyError to struct.error
        return _damaged(name, error)


def _size_fault(image: Image.Image, name: str) -> Fault | None:
    width, height = image.size
    if width < 1 or height < 1:
        return Fault(
            kind="damaged", got=f"{name} is {width}x{height} pixels", wanted="at least 1x1", do="save it again"
        )
    return _too_large(f"{name} is {width}x{height} pixels") if width * height > MAX_PIXELS else None


def _load_fault(image: Image.Image, name: str) -> Fault | None:
    try:
        if image.format == "TIFF":  # reads more tags, and warns about them, while it decodes
            with _quiet():
                image.load()
        else:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above: whatever a decoder makes of broken bytes
        return _damaged(name, error)
    return None


def _is_animated(image: Image.Image) -> bool:
    """Asked before decoding: to look for a second frame, the GIF reader drops the first."""
    if image.format not in ("GIF", "WEBP", "PNG", "AVIF", "TIFF"):  # an MPO is one photo with its own previews
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame does not hurt the first
        return False


def _converted(image: Image.Image, name: str, mode: str, *, animated: bool) -> Decoded | Fault:
    notes: list[Note] = ["first frame"] if animated else []
    turn = _TURNS.get(_orientation(image))
    try:
        if image.mode == "F":
            return _no_range(f"{name} holds floating-point pixels")
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                return _no_range(f"{name} holds integers from {values.min()} to {values.max()}")
            image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255
            notes.append("16-bit")
        elif image.mode == "P":
            notes.append("palette")
        elif image.mode == "CMYK":
            notes.append("CMYK")
        elif image.mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "PA"):
            notes.append("other colour space")
        if image.has_transparency_data:
            seen = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
            if seen.getchannel("A").getextrema() != (255, 255):
                notes.append("transparency")
                seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            image = seen
        if image.mode != mode:
            image = image.convert(mode)
    except ValueError as error:
        return _no_range(f"{name}: {error}")
    if turn is not None:
        notes.append("rotated")
        image = image.transpose(turn)
        image.info.clear()  # else the next reader of this image would turn it again
    return Decoded(image, tuple(notes))


def _orientation(image: Image.Image) -> int:
    if _EXIF_KEYS.isdisjoint(image.info) or image.format == "TIFF":  # Pillow turns a TIFF while it decodes
        return 1
    try:
        with _quiet():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF says nothing about the orientation, and the pixels are fine
        return 1


@functools.cache
def _formats() -> tuple[str, ...]:
    # Pillow before 11.3 has no AVIF, and stumbles over names that it does not know.
    has_avif = importlib.util.find_spec("PIL.AvifImagePlugin") is not None
    return tuple(name for name in FORMATS if name != "AVIF" or has_avif)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings in; their subjects are checked here. Filters are put back, and one thread at a time."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(name: str, error: Exception) -> Fault:
    return Fault(
        kind="truncated" if "truncat" in str(error).lower() else "damaged",
        got=f"{name} cannot be decoded: {error}",
        wanted="a whole image",
        do="copy it again, or remove it",
    )


def _too_large(got: str, *, limit: str = f"{MAX_PIXELS:,} pixels") -> Fault:
    return Fault(kind="too large", got=got, wanted=f"at most {limit}", do="save it smaller, or remove it")


def _unreadable(got: str) -> Fault:
    return Fault(
        kind="unreadable", got=got, wanted="an image file", do="check the path and its permissions, or remove it"
    )


def _no_range(got: str) -> Fault:
    return Fault(
        kind="unsupported pixels",
        got=got,
        wanted="8-bit, or 16-bit grey: their black and white are known",
        do="save it as an 8-bit image, scaled as you want it seen",
    )
