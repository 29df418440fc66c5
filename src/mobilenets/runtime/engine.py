"""What runs a model file: the table of engines."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, UnknownNameError, UsageError
from ..records import Artifact, Format

__all__ = [
    "DEFAULT_ENGINES",
    "ELSEWHERE",
    "ENGINES",
    "Engine",
    "EngineEntry",
    "Opener",
    "default_threads",
    "engines_for",
    "is_installed",
    "open_engine",
]

# A MobileNet's layers are small: more threads than this wait for one another more than they work.
DEFAULT_THREADS_LIMIT = 4


class Engine(Protocol):
    """A model, opened and ready to answer."""

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""

    @property
    def version(self) -> str:
        """The version of the library behind it."""

    @property
    def threads(self) -> int:
        """How many threads compute one answer."""

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answer a batch.

        Args:
            pixels: uint8 (N, R, R, C), N >= 1, as `images.load` makes them.

        Returns:
            logits, float32 (N, classes).

        Raises:
            UsageError: another dtype or shape.
        """


class Opener(Protocol):
    """Opens a model with one engine."""

    def __call__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> Engine:
        """Open the model.

        Args:
            files: content by name: the artifact's file and its companions.
            artifact: their record.
            threads: of the engine.

        Raises:
            FileFormatError: the content is not such a model.
            UsageError: this machine cannot compute in the artifact's precision.
        """


class EngineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `ENGINES`. The library is imported when a model is opened, not before."""

    home: str  # "module:class" of an `Opener`, below `runtime.engines`
    formats: tuple[Format, ...]
    package: str  # what must be importable
    extra: str | None  # what brings it; None: it comes with every installation
    needs_torch: bool = False  # no engine for a board
    runs_code: bool = (
        False  # opening a file runs what its maker put into it, so it is opened only when asked for by name
    )


def default_threads() -> int:
    """The cores that this process may use, at most 4."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, DEFAULT_THREADS_LIMIT))


def engines_for(format: Format) -> tuple[str, ...]:
    """The engines that open a format, the default one first; none for what runs elsewhere."""
    if format in ELSEWHERE:
        return ()
    first = DEFAULT_ENGINES[format]
    return (first, *(name for name, entry in ENGINES.items() if format in entry.formats and name != first))


def is_installed(name: str) -> bool:
    """Whether an engine's library is there; nothing is imported."""
    return find_spec(ENGINES[name].package) is not None


def open_engine(name: str, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> Engine:
    """Open a model with the engine of that name.

    Raises:
        UnknownNameError: no such engine.
        UsageError: the engine does not open the artifact's format, or as the `Opener` says.
        MissingExtraError: its library is not installed.
        FileFormatError: the content is not such a model.
    """
    if artifact.format in ELSEWHERE:
        raise UsageError(
            f"{artifact.file} is for {artifact.format}",
            wanted="a format with an engine here",
            do=ELSEWHERE[artifact.format],
        )
    if name not in ENGINES:
        raise UnknownNameError("engine", name, known=ENGINES)
    entry = ENGINES[name]
    if artifact.format not in entry.formats:
        raise UsageError(
            f"{artifact.file} is for another engine than {name}, which opens {', '.join(entry.formats)}",
            wanted=f"for {artifact.format}: {' or '.join(engines_for(artifact.format))}",
            do="name one of these, or none",
        )
    if entry.extra is not None and not is_installed(name):
        raise MissingExtraError(entry.package, extra=entry.extra)
    module, _, kind = entry.home.partition(":")
    opener: Opener = getattr(importlib.import_module(f".engines.{module}", package=__package__), kind)
    return opener(files, artifact=artifact, threads=threads)


ENGINES: Mapping[str, EngineEntry] = MappingProxyType(
    {
        "onnxruntime": EngineEntry(
            home="onnx_runtime:OnnxRuntimeEngine", formats=("onnx",), package="onnxruntime", extra=None
        ),
        "openvino": EngineEntry(
            home="open_vino:OpenVinoEngine", formats=("onnx", "openvino"), package="openvino", extra="openvino"
        ),
        "litert": EngineEntry(
            home="lite_rt:LiteRtEngine", formats=("tflite",), package="ai_edge_litert", extra="litert"
        ),
        "executorch": EngineEntry(
            home="execu_torch:ExecuTorchEngine",
            formats=("executorch",),
            package="executorch",
            extra="executorch",
            needs_torch=True,
        ),
        "torch": EngineEntry(
            home="torch_export:TorchExportEngine",
            formats=("pt2",),
            package="torch",
            extra="train",
            needs_torch=True,
            runs_code=True,  # torch.export.load unpickles, and evaluates expressions
        ),
    }
)

# Formats that no engine here runs, and where they are run.
ELSEWHERE: Mapping[Format, str] = MappingProxyType(
    {"coreml": "Core ML runs on Apple's systems: drag the .mlpackage into Xcode, or open it with coremltools on a Mac"}
)

# Which engine opens a format when none is named, and answers for it before the gate.
DEFAULT_ENGINES: Mapping[Format, str] = MappingProxyType(
    {
        "onnx": "onnxruntime",
        "openvino": "openvino",
        "tflite": "litert",
        "executorch": "executorch",
        "pt2": "torch",
    }
)
