"""A data set that is a table: a CSV that names images and says which labels each of them has. See `open_table`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..files import digest_of
from .dataset import Dataset, Split, images_of_labels
from .duplicates import duplicate_notes
from .folder import SPLIT_FOLDERS, with_drawn
from .scan import FoundFile, printable
from .summary import ScanSummary, SplitName

__all__ = ["TABLE_NAME", "open_table"]

TABLE_NAME = "labels.csv"  # of the table of a folder
FILE, SPLIT = "file", "split"  # columns that are no labels
CELLS: Mapping[str, float] = {"": np.nan, "0": 0.0, "1": 1.0}
FORM = "a header such as file,red,square (or file,split,red,square), and 1, 0 or nothing below each label"


class _Row(NamedTuple):
    line: int  # in the file, from 1
    file: str  # relative to the table's folder, with /
    split: SplitName | None  # None: the table has no such column
    cells: tuple[str, ...]  # one per label


def open_table(path: str | Path, *, seed: int = 0, val_fraction: float = 0.1, test_fraction: float = 0.1) -> Dataset:
    """Read a table of images with any number of labels each. No image is decoded.

    The column `file` holds paths relative to the table's folder. Every other column but `split` is a label: 1 has it, 0
    has it not, nothing: not known, and then it takes no part in the loss and the metrics. `split` says train, val or
    test; what it does not bring is drawn as `open_folder` draws it, and so is everything where there is no such column.

    Draws are seeded and made label by label, an image counting to its rarest label (those without any are drawn among
    themselves), so that rare labels are in every split; see `carve`. Rows may be in any order.

    Args:
        path: the CSV: commas, UTF-8, with a header.
        seed: of the draw; at least 0.
        val_fraction: the part that becomes val, where the table brings none.
        test_fraction: the part that becomes test, where it brings neither val nor test.

    Raises:
        DataError: no table, no labels, a label or a file that is there twice, a file that is not there, a cell that
            says none of the above, a label that no training image has, or a split in which no image has any.
        UsageError: the seed or a fraction is out of range.
    """
    table = Path(path)
    labels, rows = _read(table)
    files = _files(table, rows)
    cells = {row.file: row.cells for row in rows}
    found: dict[SplitName, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: row.file):
        found.setdefault(row.split or "train", []).append(row)
    if "train" not in found:
        raise DataError(f"{table} has no row of train", wanted="images to train on", do="correct the column split")
    # An image is drawn with those of its rarest label; the last group are those that have none.
    grouped = {
        split: [(files[row.file], int(group)) for row, group in zip(of_split, _rarest(of_split), strict=True)]
        for split, of_split in found.items()
    }
    drawn, notes = with_drawn(
        grouped, (*labels, ""), table, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction
    )
    parts = {split: [file for file, _ in of_split] for split, of_split in drawn.items()}
    targets = {split: _targets([cells[file.path] for file in of_split]) for split, of_split in parts.items()}
    counts = {split: images_of_labels(of_split, count=len(labels)) for split, of_split in targets.items()}
    _check_counts(table, labels, counts)
    notes += _label_notes(labels, targets)
    notes += duplicate_notes(table.parent, parts)
    return Dataset(
        name=printable(table.resolve().parent.name if table.name == TABLE_NAME else table.stem),
        labels=labels,
        splits={split: _split(table.parent.absolute(), parts[split], targets[split]) for split in parts},
        summary=ScanSummary(
            source=printable(str(path)),
            counts={split: dict(zip(labels, of_split.tolist(), strict=True)) for split, of_split in counts.items()},
            images={split: len(of_split) for split, of_split in parts.items()},
            notes=tuple(notes),
        ),
        digest=digest_of(
            ["table", labels, {split: [[*f, "|".join(cells[f.path])] for f in parts[split]] for split in parts}]
        ),
        task="multilabel",
    )


def _read(table: Path) -> tuple[tuple[str, ...], list[_Row]]:
    """The labels in the order of their columns, and the rows."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table} cannot be read: {error}", wanted=f"a CSV in UTF-8 with {FORM}", do="check it"
        ) from error
    lines = [(number, line) for number, line in lines if any(line)]
    header = lines[0][1] if lines else []
    if FILE not in header:
        shown = ",".join(header)[:80]
        raise DataError(
            f"{table} has no column {FILE!r}: its first line is {shown!r}",
            wanted=FORM,
            do="add that column, and commas",
        )
    if twice := [name or "(no name)" for name, n in Counter(header).items() if n > 1 or not name]:
        raise DataError(
            f"the header of {table} has no name, or the same twice: {', '.join(twice[:5])}",
            wanted="a name of its own for every column",
            do="rename or remove columns",
        )
    labels = tuple(name for name in header if name not in (FILE, SPLIT))
    if not labels:
        raise DataError(f"{table} has no label columns", wanted=FORM, do="add a column for each label")
    rows = [_row(table, number, line, header) for number, line in lines[1:]]
    if not rows:
        raise DataError(f"{table} has no rows", wanted=FORM, do="add a row for each image")
    return labels, rows


def _row(table: Path, number: int, line: Sequence[str], header: Sequence[str]) -> _Row:
    where = f"{table}, line {number}"
    if len(line) != len(header):
        raise DataError(
            f"{where} has {len(line)} cells", wanted=f"{len(header)}, as the header has", do="correct its commas"
        )
    named = dict(zip(header, line, strict=True))
    file, split = named.pop(FILE), named.pop(SPLIT, None)
    if not file:
        raise DataError(f"{where} names no file", wanted="an image in every row", do="name one, or remove the row")
    if split is not None and split.lower() not in SPLIT_FOLDERS:
        raise DataError(f"{where}: the split is {split!r}", wanted="train, val or test", do="correct that cell")
    if wrong := [(label, cell) for label, cell in named.items() if cell not in CELLS]:
        label, cell = wrong[0]
        raise DataError(
            f"{where}: {label} is {cell!r}",
            wanted="1 (has it), 0 (has it not) or nothing (not known)",
            do="correct that cell; a column that is no label has to go",
        )
    return _Row(
        line=number,
        file=os.path.normpath(file).replace(os.sep, "/"),
        split=None if split is None else SPLIT_FOLDERS[split.lower()],
        cells=tuple(named.values()),
    )


def _files(table: Path, rows: Sequence[_Row]) -> dict[str, FoundFile]:
    """Size and time of each file, by its path."""
    found: dict[str, FoundFile] = {}
    missing = []
    for row in rows:
        if row.file in found:
            raise DataError(
                f"{table}, line {row.line}: {printable(row.file)} was there before",
                wanted="each image once",
                do="join these rows",
            )
        try:
            status = (table.parent / row.file).stat()
        except OSError:
            missing.append(row)
            continue
        found[row.file] = FoundFile(row.file, status.st_size, status.st_mtime_ns)
    if missing:
        shown = ", ".join(f"{printable(row.file)} (line {row.line})" for row in missing[:3])
        raise DataError(
            f"{len(missing)} of {len(rows)} files that {table} names are not there: {shown}",
            wanted=f"paths relative to {table.parent}",
            do="correct them, or remove these rows",
        )
    return found


def _targets(cells: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
    return np.array([[CELLS[cell] for cell in line] for line in cells], dtype=np.float32)


def _rarest(rows: Sequence[_Row]) -> npt.NDArray[np.int64]:
    """For each image the rarest of its labels (N,); K, one beyond the last, where it has none."""
    has = _targets([row.cells for row in rows]) == 1
    counts = has.sum(axis=0)
    of_each = np.where(has, counts, len(rows) + 1).argmin(axis=1)
    return np.asarray(np.where(has.any(axis=1), of_each, has.shape[1]), dtype=np.int64)


def _check_counts(table: Path, labels: Sequence[str], counts: Mapping[SplitName, npt.NDArray[np.int64]]) -> None:
    if never := [label for label, n in zip(labels, counts["train"], strict=True) if not n]:
        raise DataError(
            f"{table}: no training image has {', '.join(never[:5])}",
            wanted="at least one 1 in train for every label",
            do="add images, say which are train in a column split, or remove that column",
        )
    for split, of_split in counts.items():
        if not of_split.any():
            raise DataError(
                f"{table}: no image of {split} has any label", wanted="some with a 1, to measure by", do="add images"
            )


def _label_notes(labels: Sequence[str], targets: Mapping[SplitName, npt.NDArray[np.float32]]) -> list[str]:
    """What a person should know of the labels: those that a split says nothing about, and cells that nobody knows."""
    notes = []
    for split, of_split in targets.items():
        for value, words in ((1, "has no images with"), (0, "has no images without")):
            lacking = [label for label, n in zip(labels, (of_split == value).sum(axis=0), strict=True) if not n]
            if lacking:
                more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
                notes.append(f"{split} {words} {', '.join(lacking[:5])}{more}")
    unknown = sum(int(np.isnan(of_split).sum()) for of_split in targets.values())
    cells = sum(of_split.size for of_split in targets.values())
    return [*notes, f"{unknown:,} of {cells:,} cells are not known"] if unknown else notes


def _split(root: Path, files: Sequence[FoundFile], targets: npt.NDArray[np.float32]) -> Split:
    paths = tuple(file.path for file in files)
    return Split(targets=targets, names=tuple(map(printable, paths)), paths=paths, root=root)
