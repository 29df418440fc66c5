"""Where a checkpoint of TensorFlow's lies: its prefix, one of its files, its folder, or an archive as published."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ..errors import FileFormatError
from .tensor_bundle import MAGIC, MOST_INDEX_BYTES, Source

__all__ = ["Checkpoint", "find_checkpoint", "is_slim"]

ARCHIVES = (".tgz", ".tar.gz")
SHARD = re.compile(r"(?P<prefix>.+)\.data-(?P<number>\d{5})-of-\d{5}")
MOST_BYTES = 1 << 30  # of an archive, unpacked; the largest published one has 200 MB
AVERAGED = "ema"  # V3's archives have a folder of moving averages beside that of the weights themselves


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint's files. `trail`: its own name, then those of the folders it lies in, from the inside out."""

    name: str
    trail: tuple[str, ...]
    index: bytes
    shards: Mapping[int, Source]


def is_slim(path: Path) -> bool:
    """Whether a path looks like a TensorFlow checkpoint: prefix, one of its files, its folder, or an archive."""
    if path.name.lower().endswith(ARCHIVES):
        return path.is_file()
    if path.is_dir():
        return any(path.glob("*.index"))
    return _prefix(path) is not None or _is_old(path)


def find_checkpoint(path: Path) -> Checkpoint:
    """The one checkpoint that a path stands for. Archives are read in memory; nothing is unpacked.

    Raises:
        FileFormatError: none, several, or one of the format before 2016.
    """
    if path.name.lower().endswith(ARCHIVES):
        return _in_archive(path)
    if path.is_dir():
        prefixes = {str(index)[: -len(".index")] for index in path.glob("*.index")}
        chosen = Path(_only(prefixes, path))
    else:
        prefix = _prefix(path)
        if prefix is None:
            old = " of the format that TensorFlow wrote before 1.0, all in one file" if _is_old(path) else ""
            raise FileFormatError(
                f"{path} is {'a checkpoint' if old else 'no checkpoint'}{old}",
                wanted="a checkpoint of format V2: PREFIX.index and PREFIX.data-00000-of-00001",
                do="save it again with tf.train.Saver(write_version=2)" if old else "check the path",
            )
        chosen = prefix
    index = chosen.with_name(chosen.name + ".index")
    shards: dict[int, Source] = {}
    try:
        if index.stat().st_size > MOST_INDEX_BYTES:
            raise FileFormatError(
                f"{index} has {index.stat().st_size} bytes", wanted="a MobileNet's", do="import another checkpoint"
            )
        content = index.read_bytes()
        for file in chosen.parent.iterdir():
            match = SHARD.fullmatch(file.name)
            if match and match["prefix"] == chosen.name:
                shards[int(match["number"])] = file
    except OSError as error:
        raise FileFormatError(f"cannot read {index}: {error}", wanted="a file", do="check the path") from error
    trail = (chosen.name, *(folder.name for folder in list(chosen.resolve().parents)[:2]))
    return Checkpoint(chosen.name, trail, content, shards)


def _prefix(path: Path) -> Path | None:
    """The prefix that a path is, or is a file of; None where there is no `.index` to it."""
    name = path.name
    if match := SHARD.fullmatch(name):
        name = match["prefix"]
    for suffix in (".index", ".meta"):
        name = name.removesuffix(suffix)
    if not name:
        return None
    return path.with_name(name) if path.with_name(f"{name}.index").is_file() else None


def _is_old(path: Path) -> bool:
    """Format V1 is one table, which ends as an `.index` does."""
    try:
        with path.open("rb") as file:
            file.seek(-len(MAGIC), 2)
            return file.read() == MAGIC
    except OSError:
        return False


def _only(prefixes: set[str], path: Path) -> str:
    averaged = [prefix for prefix in prefixes if PurePosixPath(prefix).parent.name == AVERAGED]
    found = averaged if len(averaged) == 1 else sorted(prefixes)
    if len(found) != 1:
        names = ", ".join(PurePosixPath(prefix).name for prefix in found[:5])
        raise FileFormatError(
            f"{path} holds {len(found)} checkpoints{': ' + names if found else ''}",
            wanted="exactly one",
            do="name one by its .index",
        )
    return found[0]


class _Bounded:
    """A stream that refuses to become longer than `MOST_BYTES`, whatever its headers make readers ask for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        """Like a file's."""
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"more than {MOST_BYTES} bytes when unpacked")
        return content


def _stream(unzipped: gzip.GzipFile) -> IO[bytes]:
    return cast(IO[bytes], _Bounded(cast(IO[bytes], unzipped)))


def _in_archive(path: Path) -> Checkpoint:
    files: dict[str, bytes] = {}
    try:
        # tarfile only ever calls `read` of a stream, which is all that both have in common with a file.
        with gzip.open(path) as unzipped, tarfile.open(fileobj=_stream(unzipped), mode="r|") as archive:
            for member in archive:
                wanted = member.name.endswith(".index") or SHARD.fullmatch(member.name)
                content: IO[bytes] | None = archive.extractfile(member) if wanted and member.isreg() else None
                if content is not None:
                    files[member.name] = content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise FileFormatError(
            f"{path} cannot be unpacked: {error}", wanted="a .tgz with one checkpoint", do="download it again"
        ) from error
    prefix = _only({name[: -len(".index")] for name in files if name.endswith(".index")}, path)
    shards: dict[int, Source] = {
        int(match["number"]): content
        for name, content in files.items()
        if (match := SHARD.fullmatch(name)) and match["prefix"] == prefix
    }
    inside = PurePosixPath(prefix)
    trail = (inside.name, *(folder.name for folder in inside.parents), path.name)
    return Checkpoint(inside.name, trail, files[f"{prefix}.index"], shards)
