"""Listing a folder of images: names, sizes and times only. Nothing is opened, nothing is skipped in silence."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..images import IMAGE_SUFFIXES
from .summary import Problem, ProblemKind

__all__ = ["FoundFile", "Listing", "list_folder", "printable", "walk"]

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # what macOS archives and Windows leave behind


class FoundFile(NamedTuple):
    """A file that should be an image: path relative to the root with `/`, size in bytes, time of its last change."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What is in a folder. A problem whose path ends in `/` stands for a folder with all that is in it."""

    folders: tuple[str, ...]
    images: tuple[FoundFile, ...]
    problems: tuple[Problem, ...]
    ignored: int


def list_folder(root: Path, relative: str = "", *, label: str | None = None) -> Listing:
    """The direct contents of `root / relative`, in the order of their names.

    Args:
        root: the data set's folder; paths are relative to it.
        relative: the folder to list.
        label: the class its files belong to, for the problems.
    """
    folders: list[str] = []
    images: list[FoundFile] = []
    problems: list[Problem] = []
    ignored = 0

    def leave_out(path: str, kind: ProblemKind) -> None:
        problems.append(Problem(printable(path), kind, "left out", label=label))

    prefix = f"{relative}/" if relative else ""
    try:
        with os.scandir(os.path.join(root, relative)) as entries:  # noqa: PTH118  # Path objects cost seconds here
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        leave_out(prefix, "unreadable")
        ordered = []
    for entry in ordered:
        path = prefix + entry.name
        try:
            is_folder = entry.is_dir()
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                ignored += _count_files(entry.path) if is_folder else 1
            elif is_folder:
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:  # noqa: PTH122  # as above
                leave_out(path, "not an image file")
            else:
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode) or not os.access(entry.path, os.R_OK):
                    leave_out(path, "unreadable")
                elif status.st_size == 0:
                    leave_out(path, "empty")
                else:
                    images.append(FoundFile(path, status.st_size, status.st_mtime_ns))
        except OSError:  # a link to nothing or in a circle
            leave_out(path, "unreadable")
    return Listing(tuple(folders), tuple(images), tuple(problems), ignored)


def walk(root: Path, relative: str, *, label: str) -> Listing:
    """All that is in `root / relative` and the folders below, as one listing without folders.

    Links to folders are followed; one that leads back to a folder above it is left out.
    """
    return _walk(root, relative, label, above=frozenset())


def _walk(root: Path, relative: str, label: str, *, above: frozenset[tuple[int, int]]) -> Listing:
    try:
        status = (root / relative).stat()
    except OSError:
        return _only(Problem(f"{printable(relative)}/", "unreadable", "left out", label=label))
    here = (status.st_dev, status.st_ino)
    if here in above:
        return _only(Problem(f"{printable(relative)}/", "link to a folder above", "left out", label=label))
    listing = list_folder(root, relative, label=label)
    if above and not (listing.folders or listing.images or listing.problems or listing.ignored):
        return _only(Problem(f"{printable(relative)}/", "empty folder", "left out", label=label))
    below = [_walk(root, f"{relative}/{name}", label, above=above | {here}) for name in listing.folders]
    return _joined([listing, *below])


def _only(problem: Problem) -> Listing:
    return Listing((), (), (problem,), 0)


def _joined(listings: Iterable[Listing]) -> Listing:
    parts = list(listings)
    return Listing(
        folders=(),
        images=tuple(file for part in parts for file in part.images),
        problems=tuple(problem for part in parts for problem in part.problems),
        ignored=sum(part.ignored for part in parts),
    )


def _count_files(folder: str) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def printable(path: str) -> str:
    """The same path, fit for a line and for JSON: control characters and bytes that are not UTF-8 become escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(path).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", path)
