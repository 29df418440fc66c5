"""The same image, byte for byte, in two splits: it makes the number on the later one look better than it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from .scan import FoundFile, printable
from .summary import SplitName

__all__ = ["duplicate_notes"]

# Only files of equal size are read, and no more of them than a disk finds in a second or two: opening is no long work.
MAX_FILES = 20_000
MAX_BYTES = 500_000_000


def duplicate_notes(root: Path, splits: Mapping[SplitName, Sequence[FoundFile]]) -> list[str]:
    """One note per pair of splits that share images, with the first few names; or one that nobody looked.

    Args:
        root: the folder that paths are relative to.
        splits: the files of each split, train first.
    """
    notes = []
    sizes = {split: {file.size for file in files} for split, files in splits.items()}
    shared = {size for one, other in combinations(splits, 2) for size in sizes[one] & sizes[other]}
    suspects = {split: [file for file in files if file.size in shared] for split, files in splits.items()}
    count = sum(map(len, suspects.values()))
    if count > MAX_FILES or sum(file.size for files in suspects.values() for file in files) > MAX_BYTES:
        return [f"images that appear in two splits were not looked for: {count:,} files share their size with another"]
    digests = {split: {file.path: _digest(root, file) for file in files} for split, files in suspects.items()}
    for one, other in combinations(splits, 2):
        known = set(digests[one].values()) - {None}
        again = [path for path, digest in digests[other].items() if digest in known]
        if again:
            shown = ", ".join(map(printable, again[:3])) + (" ..." if len(again) > 3 else "")
            plural = "images appear" if len(again) > 1 else "image appears"
            notes.append(f"{len(again):,} {plural} in both {one} and {other}: {shown}")
    return notes


def _digest(root: Path, file: FoundFile) -> bytes | None:
    try:
        with open(f"{root}/{file.path}", "rb", buffering=0) as content:  # noqa: PTH123  # ten times faster than Path
            return hashlib.blake2b(content.read(), digest_size=16).digest()
    except OSError:  # decoding will report it
        return None
