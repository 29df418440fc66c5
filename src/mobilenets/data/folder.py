"""A data set that is a folder of images, one folder per class.

Two layouts are known: `train/` with `val/` and `test/` beside it, each holding class folders; or class folders alone,
which are split here. See `open_folder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import DataError
from ..files import digest_of
from .dataset import Dataset, Split, natural_order
from .duplicates import duplicate_notes
from .scan import FoundFile, Listing, list_folder, printable, walk
from .stratify import carve
from .summary import Problem, ScanSummary, SplitName

__all__ = ["SPLIT_FOLDERS", "holds_classes", "open_folder", "with_drawn"]

SPLIT_FOLDERS: Mapping[str, SplitName] = {  # folder name in small letters -> split
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
ONE_FOLDER_PER_CLASS = "one folder per class, such as cats/ and dogs/, each with its images"

Labelled: TypeAlias = tuple[FoundFile, int]  # a file and its class


@dataclass(frozen=True)
class _Classes:
    """The class folders below one folder, and everything there that is no class."""

    files: dict[str, tuple[FoundFile, ...]]  # label -> its images
    problems: tuple[Problem, ...]
    ignored: int


def open_folder(path: str | Path, *, seed: int = 0, val_fraction: float = 0.1, test_fraction: float = 0.1) -> Dataset:
    """Find the images of a folder, their classes and their splits. No image is decoded.

    - `train/`, `val/` (or `valid/`, `validation/`) and `test/`: used as they are.
    - `train/` and `test/`: val is drawn from train, so that test stays untouched for the final number.
    - `train/` and `val/`: there is no test; final numbers are numbers on val.
    - class folders alone, or `train/` alone: val and test are drawn.

    Draws are seeded and made class by class; a class with at least three images (two, where only val is drawn) has at
    least one in each split; see `carve`. Folders inside a class folder belong to that class. Files that are no images
    are listed in the summary; hidden ones are counted.

    Args:
        path: the folder.
        seed: of the draw; at least 0.
        val_fraction: the part of each class that becomes val, where the folder brings none.
        test_fraction: the part of each class that becomes test, where the folder brings neither val nor test.

    Raises:
        DataError: no such folder, no images, fewer than two classes, a class without images, or splits that do not
            agree on their classes.
        UsageError: the seed or a fraction is out of range.
    """
    root = Path(path)
    if not root.is_dir():
        got = f"{root} is a file" if root.exists() else f"there is no folder {root}"
        raise DataError(got, wanted="a folder with " + ONE_FOLDER_PER_CLASS, do="check the path")
    top = list_folder(root)
    folders = _split_folders(root, top)
    if folders:
        scanned = {split: _classes(root, folder, list_folder(root, folder)) for split, folder in folders.items()}
        outside = _outside(top, except_folders=frozenset(folders.values()))
    else:
        scanned = {"train": _classes(root, "", top)}
        outside = ()
    labels = natural_order(scanned["train"].files)
    _check_classes(root, scanned, labels)

    found = {split: _in_order(of_split, labels) for split, of_split in scanned.items()}
    parts, notes = with_drawn(found, labels, root, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)
    if not folders:
        notes += _split_again(root)
    notes += _missing_classes(parts, labels)
    notes += duplicate_notes(root, {split: [file for file, _ in files] for split, files in parts.items()})
    return Dataset(
        name=printable(root.resolve().name),
        labels=labels,
        splits={split: _split(root.absolute(), files) for split, files in parts.items()},
        summary=ScanSummary(
            source=printable(str(path)),
            counts={split: _counts(files, labels) for split, files in parts.items()},
            problems=outside + tuple(problem for of_split in scanned.values() for problem in of_split.problems),
            ignored=sum(of_split.ignored for of_split in scanned.values()) + (top.ignored if folders else 0),
            notes=tuple(notes),
        ),
        # The seed is in here through what was drawn with it: where nothing is drawn, it changes nothing.
        digest=digest_of([labels, {split: [[*file, target] for file, target in parts[split]] for split in parts}]),
    )


def holds_classes(root: Path) -> bool:
    """Whether a folder is laid out as `open_folder` reads it, with at least two class folders to train on."""
    top = list_folder(root)
    try:
        folders = _split_folders(root, top)
    except DataError:
        return False
    return len((list_folder(root, folders["train"]) if folders else top).folders) > 1


def _split_folders(root: Path, top: Listing) -> dict[SplitName, str]:
    """Which folder is which split; nothing where the folders are classes. A class may be called `train`, too."""
    known = [name for name in top.folders if name.lower() in SPLIT_FOLDERS]
    folders = {SPLIT_FOLDERS[name.lower()]: name for name in known}
    if len(folders) < len(known):
        raise DataError(
            f"{root} holds {', '.join(known)}", wanted="one folder per split", do="merge or rename those of one split"
        )
    if "train" in folders:
        if len(folders) > 1:
            return folders
        inside = list_folder(root, folders["train"])
        return folders if inside.folders and not inside.images else {}
    if folders and len(folders) == len(top.folders):
        raise DataError(
            f"{root} holds {', '.join(known)}, but no train",
            wanted="train/ with " + ONE_FOLDER_PER_CLASS,
            do="add train/, or put the class folders straight into that folder",
        )
    return {}


def _split_again(root: Path) -> list[str]:
    """What to say of class folders that are one split of a data set a folder up."""
    here = root.resolve()
    if here.name.lower() not in SPLIT_FOLDERS:
        return []
    try:
        beside = sorted(path.name for path in here.parent.iterdir() if path.name.lower() in SPLIT_FOLDERS)
    except OSError:
        return []
    others = [name for name in beside if name != here.name and (here.parent / name).is_dir()]
    if not others or "train" not in {SPLIT_FOLDERS[name.lower()] for name in (here.name, *others)}:
        return []
    up = printable(str(here.parent))
    return [f"{here.name}/ lies beside {others[0]}/ and is split again: to use it whole, name {up}"]


def _classes(root: Path, folder: str, listing: Listing) -> _Classes:
    if not listing.folders:
        where = root / folder
        if listing.images:
            raise DataError(
                f"{where} holds {len(listing.images)} images, but no folders",
                wanted=ONE_FOLDER_PER_CLASS,
                do="make a folder for each class and move its images there",
            )
        raise DataError(f"{where} holds no images", wanted=ONE_FOLDER_PER_CLASS, do="check the path, or add images")
    prefix = f"{folder}/" if folder else ""
    walked = {printable(name): walk(root, prefix + name, label=printable(name)) for name in listing.folders}
    return _Classes(
        files={label: inside.images for label, inside in walked.items()},
        problems=_outside(listing, except_folders=frozenset(listing.folders))
        + tuple(problem for inside in walked.values() for problem in inside.problems),
        ignored=listing.ignored + sum(inside.ignored for inside in walked.values()),
    )


def _outside(listing: Listing, *, except_folders: frozenset[str]) -> tuple[Problem, ...]:
    paths = [f"{name}/" for name in listing.folders if name not in except_folders]
    paths += [file.path for file in listing.images]
    return listing.problems + tuple(Problem(printable(path), "outside a class folder", "left out") for path in paths)


def _check_classes(root: Path, scanned: Mapping[SplitName, _Classes], labels: Sequence[str]) -> None:
    broken = [p for of_split in scanned.values() for p in of_split.problems if p.kind in ("empty", "unreadable")]
    whole = sum(len(files) for of_split in scanned.values() for files in of_split.files.values())
    if len(broken) > whole > 0:
        raise DataError(
            f"{len(broken)} of {len(broken) + whole} images in {root} are broken: {_some(broken)}",
            wanted="at most half of them broken",
            do="copy the data set again, or remove what is empty or may not be read",
        )
    for split, of_split in scanned.items():
        if not any(of_split.files.values()):
            raise DataError(
                f"{root}: there are no images for {split} among {_some(of_split.problems)}",
                wanted=ONE_FOLDER_PER_CLASS,
                do="add images (JPEG, PNG, WebP ...), or remove that folder",
            )
        if unknown := natural_order(set(of_split.files) - set(labels)):
            raise DataError(
                f"{root}: {split} has classes that train lacks: {', '.join(unknown[:5])}",
                wanted=f"the {len(labels)} classes of train: {', '.join(labels[:5])}" + " ..." * (len(labels) > 5),
                do=f"rename them, add them to train, or remove them from {split}",
            )
    if empty := [label for label in labels if not scanned["train"].files[label]]:
        raise DataError(
            f"{root}: there are no images in {', '.join(empty[:5])}",
            wanted="at least one image for every class to train on",
            do="add images, or remove the empty folders",
        )
    if len(labels) < 2:
        raise DataError(
            f"{root} holds one class: {labels[0]}",
            wanted="at least two, each with its own folder",
            do="add a class; images of anything else, in a folder named other/, will do",
        )


def _some(problems: Sequence[Problem]) -> str:
    shown = ", ".join(f"{problem.path} ({problem.kind})" for problem in problems[:3])
    return f"{len(problems)} files: {shown}" if problems else "no files at all"


def _in_order(classes: _Classes, labels: Sequence[str]) -> list[Labelled]:
    return [(file, index) for index, label in enumerate(labels) for file in classes.files.get(label, ())]


def with_drawn(
    found: Mapping[SplitName, list[Labelled]],
    labels: Sequence[str],
    root: Path,
    *,
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> tuple[dict[SplitName, list[Labelled]], list[str]]:
    """Train, val and test in this order, drawn where the data set does not bring them; and what to say about it.

    Raises:
        DataError: there are too few images to draw from.
        UsageError: the seed or a fraction is out of range.
    """
    fractions: dict[SplitName, float] = {}
    notes = []
    if "val" not in found:
        fractions["val"] = val_fraction
        if "test" not in found:
            fractions["test"] = test_fraction
        notes.append(f"{' and '.join(fractions)} drawn from the training images with seed {seed}")
    elif "test" not in found:
        notes.append("there is no test split: final numbers are numbers on val")
    train = found["train"]
    drawn = {}
    if fractions:
        targets = np.array([target for _, target in train], dtype=np.int64)
        indices = carve(targets, labels=labels, fractions=fractions, seed=seed)
        drawn = {split: [train[index] for index in of_split] for split, of_split in indices.items()}
        if not all(drawn.values()):
            raise DataError(
                f"{root} has too few images to draw {' and '.join(fractions)}: {len(train)}",
                wanted=f"a class with at least {len(fractions) + 1} images (of a table: a label)",
                do="add images",
            )
    parts = {**found, **drawn}
    order: tuple[SplitName, ...] = ("train", "val", "test")
    return {split: parts[split] for split in order if split in parts}, notes


def _missing_classes(parts: Mapping[SplitName, list[Labelled]], labels: Sequence[str]) -> list[str]:
    notes = []
    for split, files in parts.items():
        present = {target for _, target in files}
        missing = [label for index, label in enumerate(labels) if index not in present]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(f"{split} has no images of {', '.join(missing[:5])}{more}")
    return notes


def _counts(files: Sequence[Labelled], labels: Sequence[str]) -> dict[str, int]:
    counts = np.bincount([target for _, target in files], minlength=len(labels))
    return {label: int(n) for label, n in zip(labels, counts, strict=True)}


def _split(root: Path, files: Sequence[Labelled]) -> Split:
    paths = tuple(file.path for file, _ in files)
    return Split(
        targets=np.array([target for _, target in files], dtype=np.int64),
        names=tuple(map(printable, paths)),
        paths=paths,
        root=root,
    )
