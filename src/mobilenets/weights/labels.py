"""Class names that checkpoints leave out."""

from __future__ import annotations

from pathlib import Path

from ..errors import FileFormatError

__all__ = ["BACKGROUND", "numbered_labels", "read_labels", "told_apart"]

BACKGROUND = "background"  # index 0 of TensorFlow's 1001 ImageNet classes


def numbered_labels(classes: int) -> tuple[str, ...]:
    """Names for classes that nobody named: "class 0" ..."""
    return tuple(f"class {index}" for index in range(classes))


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a text file, one a line; a leading number or `0:` is taken off where every line has its own.

    Raises:
        FileFormatError: unreadable, empty, or a line is empty or there twice in a way that cannot be told apart.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read {path}: {error}", wanted="a text file", do="check the path") from error
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not labels or not all(labels):
        empty = labels.index("") + 1 if "" in labels else 1
        raise FileFormatError(f"line {empty} of {path} is empty", wanted="one label a line", do="fill or remove it")
    split = [label.replace(":", " ", 1).split(maxsplit=1) for label in labels]
    if all(len(parts) == 2 and parts[0] == str(index) for index, parts in enumerate(split)):
        labels = [parts[1] for parts in split]
    return told_apart(labels)


def told_apart(labels: list[str]) -> tuple[str, ...]:
    """Each label once: the second "crane" becomes "crane (2)", for a class is found by its name."""
    seen: dict[str, int] = {}
    unique = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return tuple(unique)
