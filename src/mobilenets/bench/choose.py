"""Which engine runs an artifact fastest here: measured once, and remembered."""

from __future__ import annotations

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ..errors import CheckError, FileFormatError, MobileNetsError
from ..files import cache_root, digest_of, write_json
from ..records import Artifact, Environment, Precision, read_record, to_json
from ..runtime import ENGINES, default_threads, engines_for, is_installed, read_artifact
from .measure import measure_all
from .pool import Entry, Worker

__all__ = ["Choice", "fastest_engine"]

SECONDS: Final = 0.6  # for each engine; a choice between them needs no more
# How far another engine's logits may be from those of the engine that was held against the gate, in standard deviations
# over a few pictures. Rounding differs between engines, and more so in eight bits.
APART: Final[dict[Precision, float]] = {
    "fp32": 0.01,
    "fp16": 0.01,
    "bf16": 0.5,
    "int8": 0.5,
    "int8-weights": 0.01,
    "int8-dynamic": 0.5,
}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: medians in ms by engine, and why the others were left out."""

    engine: str
    latency_ms: dict[str, float]
    refused: dict[str, str] = {}


def fastest_engine(path: Path, *, threads: int | None = None, seconds: float = SECONDS) -> Choice:
    """The fastest of the installed engines that open an artifact and answer it alike.

    Measured in turn, each in a process of its own (`measure_all`), the first time; after that it is read from the
    cache folder, until the artifact, the machine, the threads or an engine's version is another.

    Args:
        path: the artifact.
        threads: of the engines; by default the cores this process may use, at most 4.
        seconds: for the rounds of each engine.

    Raises:
        FileFormatError: not an artifact.
        CheckError: no installed engine runs it; says of each why not.
    """
    artifact, _ = read_artifact(path)
    count = default_threads() if threads is None else threads
    installed = [name for name in engines_for(artifact.format) if is_installed(name) and not ENGINES[name].runs_code]
    memory = _memory(artifact, installed, threads=count)
    with contextlib.suppress(FileFormatError):
        return read_record(memory, Choice, what="remembered choice of an engine")
    choice = _measured(path, artifact, installed, threads=count, seconds=seconds)
    write_json(memory, to_json(choice))
    return choice


def _measured(path: Path, artifact: Artifact, names: list[str], *, threads: int, seconds: float) -> Choice:
    refused: dict[str, str] = {}
    answers: dict[str, np.ndarray] = {}
    for name in names:
        try:
            with Worker(Entry(path=str(path), engine=name), threads=threads) as worker:
                answers[name] = np.asarray(worker.answer())
        except MobileNetsError as error:
            refused[name] = error.got
    for name, logits in answers.items():
        first = next(iter(answers.values()))
        apart = float(np.abs(logits - first).max()) / max(float(first.std(axis=0).max()), 1e-6)
        if not apart <= APART[artifact.precision]:  # nor when it is not a number
            refused[name] = f"answers {apart:.3g} standard deviations away from {next(iter(answers))}"
    entries = [Entry(path=str(path), engine=name) for name in answers if name not in refused]
    if not entries:
        raise CheckError(
            f"no engine runs {path}: "
            + ("; ".join(f"{name}: {why}" for name, why in refused.items()) or "none is here"),
            wanted=f"one of {', '.join(engines_for(artifact.format))}",
            do="install one, or export again",
        )
    if len(entries) == 1:
        return Choice(engine=entries[0].engine or "", latency_ms={}, refused=refused)
    measured = {latency.engine: latency.median_ms for latency in measure_all(entries, threads=threads, seconds=seconds)}
    return Choice(engine=min(measured, key=lambda name: measured[name]), latency_ms=measured, refused=refused)


def _memory(artifact: Artifact, names: list[str], *, threads: int) -> Path:
    """Where the choice is kept: another file for whatever could change it."""
    versions = {name: metadata.version(ENGINES[name].package.replace("_", "-")) for name in names}
    key = digest_of([artifact.file_sha256, artifact.companions, artifact.precision, threads, versions])
    return cache_root() / "engines" / f"{Environment.capture().machine_digest}-{key}.json"
