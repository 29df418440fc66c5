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
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import CheckError, MissingExtraError
from ..records import Artifact
from .torch_program import to_program

__all__ = ["CONVERTER_VARIABLE", "answers_outside", "can_convert", "to_executorch"]

# The Python of an environment that has the converters, for those who do not want them beside their other packages.
CONVERTER_VARIABLE: Final = "MOBILENETS_CONVERTER_PYTHON"
SCRIPT: Final = Path(__file__).with_name("executorch_worker.py")
PATIENCE_SECONDS: Final = 1800.0  # importing and lowering the largest network takes minutes on a small machine


def can_convert() -> bool:
    """Whether there is an ExecuTorch to convert with, here or in the other environment."""
    return bool(os.environ.get(CONVERTER_VARIABLE)) or find_spec("executorch") is not None


def to_executorch(bundle: Bundle, *, facts: Mapping[str, str]) -> bytes:
    """The `.pte` file of a bundle's network, for XNNPACK; it takes one image at a time.

    Args:
        bundle: what to export.
        facts: texts by name, kept as a method of the file that returns them, a JSON object as bytes.

    Raises:
        MissingExtraError: executorch is neither here nor in the environment of `CONVERTER_VARIABLE`.
        CheckError: the converter failed; with its last words.
    """
    program = io.BytesIO()
    torch.export.save(to_program(bundle, single=True), program)
    with tempfile.TemporaryDirectory() as folder:
        given, told, made = (Path(folder) / name for name in ("program.pt2", "facts.json", "model.pte"))
        given.write_bytes(program.getvalue())
        told.write_text(json.dumps(dict(facts), ensure_ascii=False), encoding="utf-8")
        _run("lower", given, told, made)
        return made.read_bytes()


def answers_outside(artifact: Artifact, folder: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What an ExecuTorch file answers where its converter is: pixels (N, R, R, C) -> logits (N, classes).

    Raises:
        MissingExtraError, CheckError: as `to_executorch`.
    """
    with tempfile.TemporaryDirectory() as work:
        given, made = (Path(work) / name for name in ("pixels.npy", "logits.npy"))
        np.save(given, pixels)
        _run("answer", folder / artifact.file, given, made)
        logits: NDArray[np.float32] = np.load(made)
        return logits


def _run(*arguments: str | Path) -> None:
    python = os.environ.get(CONVERTER_VARIABLE) or sys.executable
    if not can_convert():
        raise MissingExtraError("executorch", extra="executorch")
    command = [python, "-P", str(SCRIPT), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except OSError as error:
        raise CheckError(
            f"{CONVERTER_VARIABLE} is {python}, which cannot be run: {error.strerror}",
            wanted="the Python of an environment with torch and executorch",
            do="correct it, or unset it",
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise CheckError(
            f"{arguments[0]} by {python} failed: {lines[-1] if lines else f'exit code {done.returncode}'}",
            wanted="a converter that takes this network",
            do=f"look at what it says: {' '.join(command[:3])}; or export as tflite, which XNNPACK runs as well",
        )
