"""What a file says about itself besides its graph: normalisation, licence, and label files in a zip at its end.

The flatbuffer's tables are those of TensorFlow Lite's `metadata_schema.fbs`; no package that reads them is kept up, so
the few fields that matter are read by their place in the schema.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..labels import told_apart

__all__ = ["About", "attached_labels", "read_metadata"]

MOST_BYTES: Final = 4_000_000  # of a label file
MOST_ENTRIES: Final = 64
# Places of fields in their tables.
SUBGRAPHS, LICENCE = 3, 5
SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = 2, 3
PROCESS_UNITS, TENSOR_FILES = 4, 6
UNIT_TYPE, UNIT_OPTIONS, NORMALIZATION = 0, 1, 1
MEAN, STD = 0, 1
FILE_NAME, FILE_TYPE, AXIS_LABELS = 0, 2, 2
BROKEN: Final = (struct.error, ValueError, IndexError, TypeError, OverflowError)


@dataclass(frozen=True)
class About:
    """The metadata that matters. Empty where the file says nothing."""

    mean: tuple[float, ...] = ()  # of the input, in units of pixels as the file is fed: (pixel - mean) / std
    std: tuple[float, ...] = ()
    label_files: tuple[str, ...] = ()
    licence: str = ""


def read_metadata(content: bytes | None) -> About:
    """Read the flatbuffer; a broken one counts as none, for the graph does not depend on it."""
    if not content:
        return About()
    try:
        root = _root(content)
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        files: list[str] = []
        for subgraph in _tables(root, SUBGRAPHS):
            for tensor in _tables(subgraph, SUBGRAPH_INPUTS):
                for unit in _tables(tensor, PROCESS_UNITS):
                    if _byte(unit, UNIT_TYPE) == NORMALIZATION and (options := _table(unit, UNIT_OPTIONS)) is not None:
                        mean, std = _floats(options, MEAN), _floats(options, STD)
            for tensor in _tables(subgraph, SUBGRAPH_OUTPUTS):
                files += [
                    _text(file, FILE_NAME)
                    for file in _tables(tensor, TENSOR_FILES)
                    if _byte(file, FILE_TYPE) == AXIS_LABELS
                ]
        return About(mean=mean, std=std, label_files=tuple(files), licence=_text(root, LICENCE))
    except BROKEN:
        return About()


def attached_labels(content: bytes, about: About, *, classes: int) -> tuple[str, ...] | None:
    """The labels in the zip behind the flatbuffer: the file that the metadata names, else the only text that fits.

    Returns:
        One label a class, each different; None where there is no such file or it has another number of lines.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()[:MOST_ENTRIES]
            named = [entry for entry in entries if entry.filename in about.label_files]
            texts = [entry for entry in entries if entry.filename.endswith(".txt")]
            for entry in (*named, *texts):
                if entry.file_size > MOST_BYTES:
                    continue
                lines = archive.read(entry).decode("utf-8").splitlines()
                labels = [line.strip() for line in lines if line.strip()]
                if len(labels) == classes:
                    return told_apart(labels)
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError, RuntimeError, NotImplementedError, *BROKEN):
        return None
    return None


def _root(content: bytes) -> Any:
    from flatbuffers import encode, number_types, table

    return table.Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0))


def _place(table: Any, field: int) -> int:
    """Where a field's content is in the buffer; 0: it is left away."""
    offset = table.Offset(4 + 2 * field)
    return int(table.Pos + offset) if offset else 0


def _tables(table: Any, field: int) -> Iterator[Any]:
    if offset := table.Offset(4 + 2 * field):
        start = table.Vector(offset)
        for index in range(min(table.VectorLen(offset), MOST_ENTRIES)):
            yield type(table)(table.Bytes, table.Indirect(start + 4 * index))


def _table(table: Any, field: int) -> Any:
    place = _place(table, field)
    return type(table)(table.Bytes, table.Indirect(place)) if place else None


def _byte(table: Any, field: int) -> int:
    place = _place(table, field)
    return table.Bytes[place] if place else 0


def _floats(table: Any, field: int) -> tuple[float, ...]:
    offset = table.Offset(4 + 2 * field)
    if not offset:
        return ()
    start, count = table.Vector(offset), min(table.VectorLen(offset), MOST_ENTRIES)
    return struct.unpack_from(f"<{count}f", table.Bytes, start)


def _text(table: Any, field: int) -> str:
    offset = table.Offset(4 + 2 * field)
    return table.String(offset + table.Pos).decode("utf-8", errors="replace") if offset else ""
