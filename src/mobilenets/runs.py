"""Where a verb puts what it makes: `runs/<verb>/<name>`, then `<name>-2`, `<name>-3` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError

__all__ = ["ROOT", "new_run_folder", "newest_run_folder", "run_name"]

ROOT = Path("runs")  # in the current folder
_NUMBERED = re.compile(r"-(\d+)")


def run_name(*parts: str) -> str:
    """A folder's name from what was done with what: "mobilenet_v2", "my flowers" gives "mobilenet_v2-my-flowers".

    Letters, digits, dots and underscores stay; everything else becomes a single dash.
    """
    tidy = [re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts]
    return "-".join(part for part in tidy if part) or "run"


def new_run_folder(verb: str, name: str, *, root: Path = ROOT) -> Path:
    """Make a folder that no run has: `runs/verb/name`, or the next free number behind it.

    Two processes that ask at the same moment get two folders.

    Raises:
        UsageError: the name is no folder's name, or the folder cannot be made.
    """
    _check_name(name)
    parent = root / verb
    number = max((number for number, _ in _runs(parent, name)), default=0)
    while True:
        number += 1
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {folder}: {error.strerror or error}",
                wanted="a folder that can be written",
                do="go to another folder, or name one with -o",
            ) from error
        return folder


def newest_run_folder(verb: str, name: str, *, root: Path = ROOT) -> Path:
    """The folder that `new_run_folder` made last for this verb and name: the one with the highest number.

    Raises:
        UsageError: there is none.
    """
    _check_name(name)
    found = dict(_runs(root / verb, name))
    if not found:
        raise UsageError(
            f"there is no run {root / verb / name}", wanted="a run to go on with", do="name its folder with -o"
        )
    return found[max(found)]


def _runs(parent: Path, name: str) -> Iterator[tuple[int, Path]]:
    for folder in parent.glob("*") if parent.is_dir() else ():
        if folder.name == name:
            yield 1, folder
        elif folder.name.startswith(name) and (match := _NUMBERED.fullmatch(folder.name[len(name) :])):
            yield int(match[1]), folder


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UsageError(
            f"{name!r} cannot name a run",
            wanted="a folder's name",
            do="use letters, digits, dots and dashes; -o takes a path",
        )
