"""Writes TensorFlow's checkpoints of format V2 for tests."""

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from mobilenets.weights.crc32c import crc32c, masked

MAGIC = 0xDB4775248B80FB57
TYPES = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}
TABLE = []
for number in range(256):
    for _ in range(8):
        number = (number >> 1) ^ (0x82F63B78 if number & 1 else 0)
    TABLE.append(number)


def byte_by_byte(data: bytes) -> int:
    """Masked CRC-32C, the slow way, which the fast one is tested against."""
    register = 0xFFFFFFFF
    for byte in data:
        register = TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    crc = register ^ 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def checksum(data: bytes) -> int:
    return byte_by_byte(data) if len(data) < 2000 else masked(crc32c(data))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def whole(number: int, value: int) -> bytes:
    """A field of a protocol buffer; zeros are left out."""
    return varint(number << 3) + varint(value) if value else b""


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(
    array: np.ndarray, *, shard: int = 0, offset: int = 0, size: int | None = None, dtype: int | None = None
) -> bytes:
    shape = b"".join(message(2, whole(1, side)) for side in array.shape)
    return (
        whole(1, TYPES[str(array.dtype)] if dtype is None else dtype)
        + message(2, shape)
        + whole(3, shard)
        + whole(4, offset)
        + whole(5, array.nbytes if size is None else size)
        + varint(6 << 3 | 5)
        + struct.pack("<I", checksum(array.tobytes()))
    )


def block(pairs: Iterable[tuple[bytes, bytes]], *, interval: int = 16) -> bytes:
    """Sorted keys, each without what it shares with the one before, but whole at every `interval`."""
    content, restarts, before = bytearray(), [], b""
    for index, (key, value) in enumerate(pairs):
        shared = 0
        if index % interval:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return bytes(content) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def trailed(content: bytes, *, kind: int = 0) -> bytes:
    return content + bytes([kind]) + struct.pack("<I", checksum(content + bytes([kind])))


def table(pairs: Mapping[bytes, bytes], *, per_block: int = 40, kind: int = 0) -> bytes:
    """A LevelDB table; `kind` 1 would be compressed by snappy."""
    out, handles = bytearray(), []
    keys = sorted(pairs)
    for start in range(0, len(keys), per_block):
        part = keys[start : start + per_block]
        content = block((key, pairs[key]) for key in part)
        handles.append((part[-1], varint(len(out)) + varint(len(content))))
        out += trailed(content, kind=kind)
    places = []
    for content in (block(()), block(handles, interval=1)):
        places.append(varint(len(out)) + varint(len(content)))
        out += trailed(content)
    return bytes(out) + b"".join(places).ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write_checkpoint(
    prefix: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    shards: int = 1,
    change: Callable[[dict[bytes, bytes]], None] = lambda _: None,
    kind: int = 0,
) -> None:
    """`prefix`.index and its data; `change` may spoil the entries before they are written."""
    data = [bytearray() for _ in range(shards)]
    pairs = {b"": whole(1, shards) + message(3, whole(1, 1))}
    for index, name in enumerate(sorted(tensors)):
        array, shard = np.asarray(tensors[name], order="C"), index % shards
        pairs[name.encode()] = entry(array, shard=shard, offset=len(data[shard]))
        data[shard] += array.tobytes()
    change(pairs)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs, kind=kind))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(content)
