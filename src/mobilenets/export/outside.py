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
from ..progress import say
from ..records import Artifact, Format
from .calibration import MOST_FLOAT, check_answers, check_calibration, held_back
from .gate import Limits, reference_logits
from .torch_program import to_program

__all__ = [
    "CONVERTERS",
    "CONVERTER_VARIABLE",
    "answers_outside",
    "can_convert",
    "to_coreml",
    "to_executorch",
    "to_executorch_int8",
]

# The Python of an environment that has the converters, for those who do not want them beside their other packages.
CONVERTER_VARIABLE: Final = "MOBILENETS_CONVERTER_PYTHON"
FEW: Final = 16  # images that show whether a network answers at all
PATIENCE_SECONDS: Final = 3600.0  # importing and lowering the largest network takes minutes on a small machine


class Converter(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a format: a script that knows the commands `lower` and `answer`, and the package that it needs.

    ExecuTorch's knows `quantize` as well.
    """

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
    return _lowered("executorch", to_program(bundle, single=True), facts=facts, name="model.pte")


def to_executorch_int8(bundle: Bundle, *, facts: Mapping[str, str], images: NDArray[np.uint8]) -> dict[str, bytes]:
    """The `.pte` file in static int8: torchao's PT2E flow with ExecuTorch's XNNPACKQuantizer, weights per channel.

    A quarter of the images judges, as in `quantize.quantize`: of ranges by min-max and by torchao's histograms, what
    adds less noise to the logits is kept. Where even that answers fewer of them like float32 than the gate asks for,
    the rows that add most noise, each measured by itself, stay float32, as few as are needed and at most a third.
    Squeeze-and-excite is judged with its row. Hard-swish and the gate's hard sigmoid are computed in float32 in any
    case, between bytes: XNNPACK has them in no other way. Ranges that a bundle was trained with are not taken, for
    they belong to the places of our own int8 graph.

    Args:
        bundle: a trained network.
        facts: as in `to_executorch`.
        images: prepared training images, uint8 (N, R, R, C), N >= 1.

    Raises:
        UsageError: there are no images.
        MissingExtraError, CheckError: as `to_executorch`, or the network answers in float32 with what is no number.
    """
    check_calibration(images)
    check_answers(reference_logits(bundle, images[:FEW]), name=bundle.spec.name)
    judging = held_back(len(images))
    with tempfile.TemporaryDirectory() as work:
        seen, held, trials = (Path(work) / name for name in ("seen.npy", "held.npy", "trials.json"))
        np.save(seen, images[~judging])
        np.save(held, images[judging])
        # With the batch left free: a hundred images one by one would cost minutes of calls.
        made = _lowered(
            "executorch",
            to_program(bundle),
            facts=facts,
            name="model.pte",
            command="quantize",
            options=(seen, held, trials, str(Limits.of("int8").agreement), str(MOST_FLOAT)),
        )
        for words in json.loads(trials.read_text(encoding="utf-8")):
            say(f"int8, {words}")
    return made


def to_coreml(
    bundle: Bundle, *, facts: Mapping[str, str], precision: Literal["fp32", "fp16", "int8-weights"]
) -> dict[str, bytes]:
    """The files of an `.mlpackage`: it takes one image, as Core ML has images, and gives logits.

    Core ML has int8 for activations as well, but coremltools calibrates it by running the model, which only Apple's
    systems do. So weights alone become bytes here, one step per output channel.

    Args:
        bundle: what to export.
        facts: texts by name, kept as user-defined metadata "mobilenets.NAME".
        precision: of weights and arithmetic; with "int8-weights", the arithmetic is float16.

    Raises:
        MissingExtraError, CheckError: as `to_executorch`.
    """
    program = to_program(bundle, single=True, by_planes=True)
    return _lowered("coreml", program, facts=facts, name="model.mlpackage", options=(precision,))


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
    exported: torch.export.ExportedProgram,
    *,
    facts: Mapping[str, str],
    name: str,
    command: Literal["lower", "quantize"] = "lower",
    options: tuple[str | Path, ...] = (),
) -> dict[str, bytes]:
    """What a converter writes: a file, or a folder's files, those on top first."""
    program = io.BytesIO()
    torch.export.save(exported, program)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        given, told, made = folder / "program.pt2", folder / "facts.json", folder / name
        given.write_bytes(program.getvalue())
        told.write_text(json.dumps(dict(facts), ensure_ascii=False), encoding="utf-8")
        _run(format, command, given, told, made, *options)
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
