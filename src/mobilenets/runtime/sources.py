"""Which images are meant: one file, a folder, a pattern, a list, or what comes in through a pipe."""

from __future__ import annotations

import glob
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

from ..errors import FileFormatError, UsageError
from ..images import IMAGE_SUFFIXES

__all__ = ["find_images"]


def find_images(source: str | Path, *, stdin: BinaryIO | None = None) -> list[Path | bytes]:
    """The images that `source` stands for, in a natural order ("2.jpg" before "10.jpg").

    Args:
        source: one of

            - an image file, whatever its suffix;
            - a folder: every image in it and below it, hidden ones left out;
            - a glob pattern ("photos/*.jpg", "photos/**"); one that ends without a suffix finds images only;
            - a `.txt` file: one path per line, relative to the list; empty lines and lines that begin with # are
              skipped, and the given order is kept;
            - "-", standard input: text (UTF-8, no zero bytes) is a list of paths, relative to the current folder;
              anything else is the bytes of one image.
        stdin: read instead of standard input.

    Returns:
        Paths, not yet opened; or the bytes of the one image from standard input.

    Raises:
        UsageError: nothing is found.
        FileFormatError: a list that is not text.
    """
    text = str(source)
    if text == "-":
        return _from_stdin((stdin or sys.stdin.buffer).read())
    path = Path(source)
    if path.is_dir():
        inside = (p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts))
        return _some(
            [p for p in inside if _is_image(p)],
            got=f"the folder {path} holds no images",
            wanted="files ending in " + ", ".join(sorted(IMAGE_SUFFIXES)),
        )
    if path.exists():
        if path.suffix.lower() == ".txt":
            return _listed(path.read_bytes(), what=str(path), root=path.parent)
        return [path]
    if glob.has_magic(text):
        matches = [Path(p) for p in glob.glob(text, recursive=True)]  # noqa: PTH207 (Path.glob refuses absolute ones)
        kept = [p for p in matches if (p.is_file() if path.suffix else _is_image(p))]
        return _some(kept, got=f"nothing matches {text!r}", wanted="a pattern that matches images")
    raise UsageError(
        f"there is nothing at {path}", wanted="an image, a folder, a pattern or a list", do="check the path"
    )


def _from_stdin(content: bytes) -> list[Path | bytes]:
    if not content.strip():
        raise UsageError(
            "standard input is empty", wanted="the bytes of an image, or paths", do="pipe something in: cat x.jpg | ..."
        )
    if b"\0" not in content:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            return [content]
        return _listed(content, what="standard input", root=Path())
    return [content]


def _listed(content: bytes, *, what: str, root: Path) -> list[Path | bytes]:
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{what} is not text: {error}", wanted="one path per line, UTF-8", do="save it so"
        ) from error
    found: list[Path | bytes] = [root / line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{what} lists no images", wanted="one path per line", do="add some")
    return found


def _some(found: list[Path], *, got: str, wanted: str) -> list[Path | bytes]:
    if not found:
        raise UsageError(got, wanted=wanted, do="check the path")
    return [*sorted(found, key=_natural)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts digits by their value and the rest as text, folder by folder."""
    parts = re.split(r"(\d+)", str(path).replace(os.sep, "\0"))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
