"""Files that are whole or absent: write beside the target, flush to the disk, rename over it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import FileFormatError, UsageError

__all__ = ["cache_root", "digest_of", "new_folder", "read_json", "sync_file", "write_bytes", "write_json", "write_text"]

STALE_SECONDS = 3600.0  # a folder that nobody has finished for this long belongs to a process that died


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that a reader, or a crash, sees the old file or the new one and never a part.

    Raises:
        UsageError: the folder is read-only or the disk is full; the old file is intact.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)  # mkstemp makes private files; these are results to share
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON; `content` is made of dicts, lists, strings, numbers, booleans and None."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *, what: str) -> Any:
    """Read JSON; `what` names the file's kind for the error.

    Raises:
        FileFormatError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileFormatError(
            f"cannot read {path}: {error}", wanted=f"a readable {what}", do="check the path, or make the file again"
        ) from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, put in place of `path` as a whole when the block ends well.

    An existing folder at `path` is replaced; when the block raises, it stays as it was. What an earlier, killed
    process left half-written beside it is cleared away.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        part.chmod(0o755)
    except OSError as error:
        raise _cannot_write(path, error) from error
    for left in path.parent.glob(f".{path.name}.*.part"):
        if left != part and time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                sync_file(file)
        old = None
        if path.exists():
            # A folder cannot be renamed over a full one, so the old one steps aside first.
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
            path.rename(old / path.name)
        part.rename(path)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _cannot_write(path, error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def sync_file(path: Path) -> None:
    """Ask the disk to keep what was written to `path`."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def digest_of(content: Any) -> str:
    """A short, stable SHA-256 digest (16 hex digits) of bytes, or of JSON-like content in canonical form."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def cache_root() -> Path:
    """Where caches go: `$MOBILENETS_CACHE`, else `$XDG_CACHE_HOME/mobilenets`, else `~/.cache/mobilenets`."""
    if own := os.environ.get("MOBILENETS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilenets"


def _cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {path}: {error.strerror or error}",
        wanted="a folder that can be written, with room on the disk",
        do="free some space or choose another place; nothing that was there is lost",
    )
