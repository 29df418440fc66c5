"""Finding and reading the `artifact.json` that tells how a model file is to be run."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import FileFormatError
from ..records import Artifact, read_record

__all__ = ["ARTIFACT_FILE", "read_artifact"]

ARTIFACT_FILE = "artifact.json"


def read_artifact(path: Path) -> tuple[Artifact, Path]:
    """The record of an artifact, and the folder it lies in.

    Args:
        path: the artifact's folder, its `artifact.json`, or the model file beside that.

    Raises:
        FileFormatError: nothing is there, it is not an artifact, or the record names another file than was given.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileFormatError(f"there is nothing at {path}", wanted="an artifact", do="check the path")
    if not (folder / ARTIFACT_FILE).is_file():
        if (folder / "bundle.json").is_file():
            raise FileFormatError(
                f"{path} is a bundle", wanted="an artifact", do=f"export it first: mobilenets export {folder}"
            )
        raise FileFormatError(
            f"{path} has no {ARTIFACT_FILE}" + ("" if path.is_dir() else " beside it"),
            wanted="the folder that `mobilenets export` wrote, or a file in it",
            do="give that folder; a lone model file does not tell its labels and preprocessing",
        )
    artifact = read_record(folder / ARTIFACT_FILE, Artifact, what=ARTIFACT_FILE)
    _check(artifact, folder=folder)
    if path.is_file() and path.name not in (ARTIFACT_FILE, Path(artifact.file).name):
        raise FileFormatError(
            f"{path} is not the file that {folder / ARTIFACT_FILE} describes",
            wanted=artifact.file,
            do=f"give {folder / artifact.file}",
        )
    return artifact, folder


def _check(artifact: Artifact, *, folder: Path) -> None:
    """What the record's types cannot say."""
    where = folder / ARTIFACT_FILE
    for file in (artifact.file, *artifact.companions):
        # A record may come from somebody else: its model lies beside it, not anywhere on this disk.
        outside = PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute()
        if not file or outside or ".." in Path(file).parts:
            raise FileFormatError(f"{where} names the file {file!r}", wanted="a file beside it", do="export again")
        if not (folder / file).is_file():
            raise FileFormatError(f"{folder / file} is missing", wanted=f"the file {where} names", do="copy it too")
    if not artifact.labels:
        raise FileFormatError(f"{where} has no labels", wanted="one label per class", do="export again")
