"""TensorFlow's checkpoints of format V2 ("tensor bundles"), read without TensorFlow.

`PREFIX.index` is a LevelDB table: sorted keys, each without what it shares with the one before, in blocks with
checksums. A key is a variable's name and its value a protocol buffer `BundleEntryProto`: type, shape, and where in
which `PREFIX.data-SSSSS-of-NNNNN` its numbers lie, with their checksum. The key "" is the bundle's header.
(LevelDB: doc/table_format.md; TensorFlow: tensor_bundle.proto, tensor_bundle.h, io/format.cc.)

Files may come from anywhere, so every length is held against what there is before it is used, and every checksum is
checked, those of the tensors when they are read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError
from .crc32c import crc32c, masked

__all__ = ["MAGIC", "Entry", "Source", "TensorBundle", "open_tensor_bundle"]

Source = Path | bytes  # a file, or what was in one

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48  # two block handles, filled up to 40 bytes, and the magic number
TRAILER = 5  # behind each block: how it is compressed, and a checksum
MOST_INDEX_BYTES = 1 << 25
MOST_ENTRIES = 50_000
LONGEST_KEY = 1024
MOST_DIMENSIONS = 8
# TensorFlow's DataType -> bytes, and how numpy reads them; bfloat16 is the upper half of a float32.
FLOATS: Mapping[int, tuple[int, str]] = MappingProxyType({1: (4, "<f4"), 2: (8, "<f8"), 14: (2, "<u2"), 19: (2, "<f2")})
BFLOAT16 = 14


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool  # held as parts of a partitioned variable, under other keys


@dataclass(frozen=True, eq=False)
class TensorBundle:
    """A checkpoint whose tensors are read when they are asked for."""

    what: str  # for errors
    entries: Mapping[str, Entry]
    shards: Mapping[int, Source]

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor of floating-point numbers by its name, as float32.

        Raises:
            FileFormatError: another type, partitioned, a shard that is missing or short, or a wrong checksum.
        """
        entry = self.entries[name]
        if entry.sliced:
            raise self._broken(f"{name} is a partitioned variable", do="save the checkpoint without a partitioner")
        if entry.dtype not in FLOATS:
            raise self._broken(f"{name} is of TensorFlow's type {entry.dtype}, not of floating-point numbers")
        width, layout = FLOATS[entry.dtype]
        if entry.size != math.prod(entry.shape) * width:
            raise self._broken(f"{name} of shape {entry.shape} has {entry.size} bytes")
        content = _read(self.shards.get(entry.shard), entry.offset, entry.size)
        if content is None:
            raise self._broken(
                f"shard {entry.shard} has no bytes {entry.offset} to {entry.offset + entry.size} for {name}"
            )
        if masked(crc32c(content)) != entry.crc:
            raise self._broken(f"the checksum of {name} is another than its bytes have")
        array: NDArray[np.float32]
        if entry.dtype == BFLOAT16:
            array = (np.frombuffer(content, layout).astype("<u4") << 16).view("<f4")
        else:
            array = np.frombuffer(content, layout).astype(np.float32)
        return array.reshape(entry.shape)

    def _broken(self, got: str, *, do: str = "copy or download all files of the checkpoint again") -> FileFormatError:
        return _error(self.what, got, do=do)


def open_tensor_bundle(index: bytes, shards: Mapping[int, Source], *, what: str) -> TensorBundle:
    """Read a checkpoint's `.index`.

    Args:
        index: the content of that file.
        shards: the `.data-…` files by their number.
        what: names the checkpoint for errors.

    Raises:
        FileFormatError: not such a file, cut off, changed, or of a kind that is not read.
    """
    entries: dict[str, Entry] = {}
    header = False
    for key, value in _table(index, what):
        if key == b"":
            _check_header(value, what)
            header = True
        elif not key.startswith(b"\0"):  # those are parts of partitioned variables
            entries[key.decode("utf-8", errors="backslashreplace")] = _entry(value, what)
    if not header:
        raise _error(what, "its .index has no header")
    return TensorBundle(what, MappingProxyType(entries), shards)


def _check_header(value: bytes, what: str) -> None:
    fields = dict(_fields(value, what))
    if fields.get(2, 0) != 0:
        raise _error(what, "its numbers are big-endian", do="save it on an ordinary machine")


def _entry(value: bytes, what: str) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}  # type, shard, offset, size, checksum; zeros are not written
    shape: list[int] = []
    sliced = False
    for number, field in _fields(value, what):
        if number == 2 and isinstance(field, bytes):
            for inner, dimension in _fields(field, what):
                if inner == 2 and isinstance(dimension, bytes):
                    shape.append(_whole(dict(_fields(dimension, what)).get(1, 0), what))
        elif number == 7:
            sliced = True
        elif number in numbers:
            numbers[number] = _whole(field, what)
    if len(shape) > MOST_DIMENSIONS:
        raise _error(what, f"a tensor of {len(shape)} dimensions")
    return Entry(
        dtype=numbers[1],
        shape=tuple(shape),
        shard=numbers[3],
        offset=numbers[4],
        size=numbers[5],
        crc=numbers[6],
        sliced=sliced,
    )


def _whole(field: int | bytes, what: str) -> int:
    if not isinstance(field, int) or field >= 1 << 62:  # int64: a negative number has the highest bit
        raise _error(what, f"a negative or wrong number in an entry of its .index ({field!r})")
    return field


def _fields(message: bytes, what: str) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: number, and value."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at, len(message), what)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at, len(message), what)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at, len(message), what)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _error(what, f"an entry of its .index has a field of kind {kind}")
        if size > len(message) - at:
            raise _error(what, "an entry of its .index is cut off")
        part = message[at : at + size]
        at += size
        yield tag >> 3, part if kind == 2 else int.from_bytes(part, "little")


def _table(index: bytes, what: str) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table, in order."""
    if len(index) > MOST_INDEX_BYTES:
        raise _error(what, f"its .index has {len(index)} bytes", do="import a checkpoint of a MobileNet")
    if len(index) < FOOTER or not index.endswith(MAGIC):
        raise _error(what, "its .index does not end as a table does")
    footer, at = index[-FOOTER:-8], 0
    for _ in range(2):  # the handle of the metaindex, of which TensorFlow makes no use
        _, at = _varint(footer, at, len(footer), what)
    offset, at = _varint(footer, at, len(footer), what)
    size, at = _varint(footer, at, len(footer), what)
    count, end, last = 0, 0, None
    for _, handle in _block(index, offset, size, what):
        start, at = _varint(handle, 0, len(handle), what)
        length, _ = _varint(handle, at, len(handle), what)
        if start < end:  # or a small file could have the same block read for ever
            raise _error(what, "blocks of its .index overlap")
        end = start + length + TRAILER
        for key, value in _block(index, start, length, what):
            count += 1
            if count > MOST_ENTRIES or (last is not None and key <= last):
                raise _error(what, "keys of its .index are out of order, or too many")
            last = key
            yield key, value


def _block(index: bytes, offset: int, size: int, what: str) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + TRAILER > len(index) - FOOTER or size < 4:
        raise _error(what, f"a block at byte {offset} of its .index is not there")
    content = index[offset : offset + size]
    kind = index[offset + size]
    (crc,) = struct.unpack_from("<I", index, offset + size + 1)
    if masked(crc32c(index[offset : offset + size + 1])) != crc:
        raise _error(what, f"the block at byte {offset} of its .index was changed")
    if kind != 0:
        raise _error(what, f"its .index is compressed (kind {kind})", do="save it again with a newer TensorFlow")
    (restarts,) = struct.unpack_from("<I", content, size - 4)
    end = size - 4 - 4 * restarts  # behind the entries: where keys are whole, for searching
    if end < 0:
        raise _error(what, f"the block at byte {offset} of its .index has {restarts} restarts")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(content, at, end, what)
        own, at = _varint(content, at, end, what)
        length, at = _varint(content, at, end, what)
        if shared > len(key) or shared + own > LONGEST_KEY or own + length > end - at:
            raise _error(what, f"an entry in the block at byte {offset} of its .index is cut off")
        key = key[:shared] + content[at : at + own]
        at += own
        yield key, content[at : at + length]
        at += length


def _varint(content: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _error(what, "a number in its .index is cut off")


def _read(source: Source | None, offset: int, size: int) -> bytes | None:
    """Bytes of a file, or None where it does not have them."""
    if source is None:
        return None
    if isinstance(source, bytes):
        content = source[offset : offset + size]
    else:
        try:
            with source.open("rb") as file:
                if offset + size > source.stat().st_size:
                    return None
                file.seek(offset)
                content = file.read(size)
        except OSError:
            return None
    return content if len(content) == size else None


def _error(what: str, got: str, *, do: str = "copy or download all files of the checkpoint again") -> FileFormatError:
    return FileFormatError(f"{what}: {got}", wanted="a TensorFlow checkpoint of format V2, whole", do=do)
