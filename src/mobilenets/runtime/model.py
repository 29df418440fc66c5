"""An artifact, opened."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UnknownNameError, UsageError
from ..records import Artifact, Preprocess, Task
from .artifact import read_artifact
from .engine import DEFAULT_ENGINES, ENGINES, Engine, default_threads, open_engine

__all__ = ["Answers", "Model", "open_artifact"]


class Answers(Protocol):
    """What `predict` asks: an opened artifact, or a bundle's network in the workshop."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""

    @property
    def preprocess(self) -> Preprocess:
        """How its images are made."""

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels uint8 (N, R, R, C) -> logits float32 (N, classes)."""

    @property
    def task(self) -> Task:
        """What the logits mean."""


class Model(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An artifact with the engine that runs it. Made by `open_artifact`."""

    artifact: Artifact
    engine: Engine
    folder: Path

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.artifact.labels

    @property
    def preprocess(self) -> Preprocess:
        """How its images are made."""
        return self.artifact.preprocess

    @property
    def task(self) -> Task:
        """What the logits mean."""
        return self.artifact.task

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels uint8 (N, R, R, C) -> logits float32 (N, classes); raises what the engine raises."""
        return self.engine.run(pixels)


def open_artifact(path: Path, *, engine: str | None = None, threads: int | None = None) -> Model:
    """Open an artifact for running. Needs no torch.

    Args:
        path: the artifact's folder, its `artifact.json`, or the model file beside that.
        engine: a key of `ENGINES`; by default the one that suits the artifact's format. An engine that runs code
            which comes with a file (`torch`) is never taken by default.
        threads: threads of the engine; by default the cores this process may use, at most 4.

    Raises:
        FileFormatError: not an artifact, a damaged model, or a model file that is not the one that was exported.
        UnknownNameError: no such engine.
        UsageError: fewer than one thread, an engine for other formats, a precision that this machine lacks, or no
            engine named for a file that can run code.
        MissingExtraError: the engine's library is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", wanted="at least 1", do="give a positive number, or none at all")
    name = engine
    if name is not None and name not in ENGINES:
        raise UnknownNameError("engine", name, known=ENGINES)
    artifact, folder = read_artifact(Path(path))
    default = DEFAULT_ENGINES.get(artifact.format, "")  # none for what runs elsewhere, which `open_engine` tells
    if name is None and default and ENGINES[default].runs_code:
        raise UsageError(
            f"{path} is a {artifact.format} program, and opening it runs what its maker put into it",
            wanted="files that hold numbers only, or your word that this one is yours or of somebody you trust",
            do=f"name the engine: --engine {default}",
        )
    files = {file: _content(folder / file, sha256=sha256) for file, sha256 in _digests(artifact).items()}
    opened = open_engine(
        name or default,
        files,
        artifact=artifact,
        threads=default_threads() if threads is None else threads,
    )
    return Model(artifact=artifact, engine=opened, folder=folder)


def _digests(artifact: Artifact) -> dict[str, str]:
    return {artifact.file: artifact.file_sha256, **artifact.companions}


def _content(file: Path, *, sha256: str) -> bytes:
    """What a file holds, if it is what was exported.

    Raises:
        FileFormatError: it cannot be read, or was changed.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"cannot read {file}: {error.strerror or error}", wanted="a readable model file", do="check its permissions"
        ) from error
    # The bytes that are checked are the bytes that are opened: nothing can change in between.
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise FileFormatError(
            f"{file} was changed: its SHA-256 is {found[:16]}...",
            wanted=f"{sha256[:16]}..., the file that was exported and checked",
            do="copy the whole folder again, or export again",
        )
    return content
