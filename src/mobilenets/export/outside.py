"""Converters that run in a process of their own, and if need be in an environment of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import CheckError, MissingExtraError, UsageError
from ..records import Artifact, Format
from .torch_program import to_program

__all__ = ["CONVERTERS", "CONVERTER_VARIABLE", "answers_outside", "can_convert", "to_coreml", "to_executorch"]

# The Python of an environment that has the converters, for those who do not want them beside their other packages.
CONVERTER_VARIABLE: Final = "MOBILENETS_CONVERTER_PYTHON"
PATIENCE_SECONDS: Final = 3600.0  # importing and lowering the largest network takes minutes on a small machine


class Converter(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a format: a script that knows the commands `lower` and `answer`, and the package that it needs."""

    script: str  # beside this file
    package: str
    extra: str


CONVERTERS: Mapping[Format, Converter] = MappingProxyType(
    {
        "executorch": Converter(script="executorch_worker.py", package="executorch", extra="executorch"),
        "coreml": Converter(script="coreml_worker.py", package="coremltools", extra="coreml"),
    }
)


def can_convert(format: Format) -> bool:
    """Whether a format's converter is here, or is said to be in another environment."""
    return bool(os.environ.get(CONVERTER_VARIABLE)) or find_spec(CONVERTERS[format].package) is not None


def to_executorch(bundle: Bundle, *, facts: Mapping[str, str]) -> dict[str, bytes]:
    """The `.pte` file of a bundle's network, for XNNPACK; it takes one image at a time.

    Args:
        bundle: what to export.
        facts: texts by name, kept as a method of the file that returns them, a JSON object as bytes.

    Raises:
        MissingExtraError: executorch is neither here nor in the environment of `CONVERTER_VARIABLE`.
        CheckError: the converter failed; with its last words.
    """
    return _lowered("executorch", bundle, facts=facts, name="model.pte", options=(), by_planes=False)


def to_coreml(bundle: Bundle, *, facts: Mapping[str, str], precision: Literal["fp32", "fp16"]) -> dict[str, bytes]:
    """The files of an `.mlpackage`: it takes one image, as Core ML has images, and gives logits.

    Args:
        bundle: what to export.
        facts: texts by name, kept as user-defined metadata "mobilenets.NAME".
        precision: of weights and arithmetic.

    Raises:
        MissingExtraError, CheckError: as `to_executorch`.
    """
    name = "model.mlpackage"
    return _lowered("coreml", bundle, facts=facts, name=name, options=(precision,), by_planes=True)


def answers_outside(artifact: Artifact, folder: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a file answers where its converter is: pixels (N, R, R, C) -> logits (N, classes).

    Raises:
        UsageError: the format has no converter of this kind.
        MissingExtraError, CheckError: as `to_executorch`.
    """
    if artifact.format not in CONVERTERS:
        raise UsageError(f"format {artifact.format}", wanted=", ".join(CONVERTERS), do="open it with its engine")
    first = Path(artifact.file).parts[0]  # of a package, the folder
    with tempfile.TemporaryDirectory() as work:
        given, made = (Path(work) / name for name in ("pixels.npy", "logits.npy"))
        np.save(given, pixels)
        _run(artifact.format, "answer", folder / first, given, made)
        logits: NDArray[np.float32] = np.load(made)
        return logits


def _lowered(
    format: Format,
    bundle: Bundle,
    *,
    facts: Mapping[str, str],
    name: str,
    options: tuple[str, ...],
    by_planes: bool,
) -> dict[str, bytes]:
    """What a converter writes: a file, or a folder's files, those on top first."""
    program = io.BytesIO()
    torch.export.save(to_program(bundle, single=True, by_planes=by_planes), program)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        given, told, made = folder / "program.pt2", folder / "facts.json", folder / name
        given.write_bytes(program.getvalue())
        told.write_text(json.dumps(dict(facts), ensure_ascii=False), encoding="utf-8")
        _run(format, "lower", given, told, made, *options)
        files = [made]
        if made.is_dir():  # what lies on top names the others
            files = sorted((p for p in made.rglob("*") if p.is_file()), key=lambda p: (len(p.parts), p))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _run(format: Format, *arguments: str | Path) -> None:
    converter = CONVERTERS[format]
    if not can_convert(format):
        raise MissingExtraError(converter.package, extra=converter.extra)
    python = os.environ.get(CONVERTER_VARIABLE) or sys.executable
    command = [python, "-P", str(Path(__file__).with_name(converter.script)), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except OSError as error:
        raise CheckError(
            f"{CONVERTER_VARIABLE} is {python}, which cannot be run: {error.strerror}",
            wanted=f"the Python of an environment with torch and {converter.package}",
            do="correct it, or unset it",
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise CheckError(
            f"{arguments[0]} by {python} failed: {lines[-1] if lines else f'exit code {done.returncode}'}",
            wanted=f"{converter.package}, and a network that it takes",
            do="install it there, or export as tflite, which phones run as well",
        )
