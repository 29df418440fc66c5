"""Bundle -> Artifact: make the file, hold it against the gate, and only then let it exist."""

from __future__ import annotations

import contextlib
import hashlib
import math
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch.cost import cost
from ..bench import Entry, measure_all
from ..bundle import Bundle
from ..errors import FileFormatError, UnknownNameError, UsageError
from ..files import new_folder, write_json
from ..records import Artifact, Format, Gate, Precision, only_classifiers, to_json
from ..runtime import ELSEWHERE, ENGINES, engines_for, is_installed, open_artifact, read_artifact, run_batches
from .formats import FORMATS, MADE_ELSEWHERE, Calibration, Maker
from .gate import SPEEDUP, GateImages, Limits, check, gates_of, reference_logits
from .onnx_graph import INPUT_NAME, OUTPUT_NAME

__all__ = ["describe", "export", "maker_of", "write_ungated"]

GATE_BATCH = 16  # more than one: a file that is right for one image only must not pass
SPEED_SECONDS = 3.0
SPEED_TRIES = 3


def export(
    bundle: Bundle,
    out: Path,
    *,
    images: GateImages,
    format: Format = "onnx",
    precision: Precision = "fp32",
    calibration: Calibration | None = None,
    limits: Limits | None = None,
    faster_than: Path | None = None,
    threads: int | None = None,
    maker: Maker | None = None,
) -> Artifact:
    """Export a bundle to the folder `out`: the model file and `artifact.json`, with the gates it went through.

    Args:
        bundle: what to export.
        out: the artifact's folder; appears as a whole, and only when every gate is passed.
        images: real images that the torch network and the file must answer alike.
        format: of the file.
        precision: of the numbers in it.
        calibration: prepared training images (N, R, R, C), for int8.
        limits: what may differ; None: the precision's own.
        faster_than: the fp32 artifact that int8 must beat, measured side by side. Without it, speed is not judged.
        threads: for measuring speed; None: the engine's default.
        maker: what makes the file, if not the table's own for that format and precision.

    Raises:
        GateError: the file answers differently, or is not faster; nothing is written.
        UsageError: int8 without calibration images or of no classifier, or `out` cannot be written.
        UnknownNameError: no such format in that precision.
    """
    limits = limits or Limits.of(precision)
    gates: tuple[Gate, ...] = ()
    with new_folder(out) as part:
        artifact = _write(bundle, part, format=format, precision=precision, calibration=calibration, maker=maker)
        answered = _answers(artifact, part, images)
        gates = gates_of(reference_logits(bundle, images.images), answered, images, limits, task=bundle.task)
        check(gates, what=f"{artifact.file} ({precision})")
        if limits.speedup is not None and faster_than is not None:
            gates = (*gates, _speed_gate(faster_than, part, limits.speedup, threads=threads))
            check(gates, what=f"{artifact.file} ({precision})")
        artifact = msgspec.structs.replace(artifact, gates=gates)
        write_json(part / "artifact.json", to_json(artifact))
    return artifact


def write_ungated(
    bundle: Bundle,
    out: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    calibration: Calibration | None = None,
) -> Artifact:
    """An artifact of a network that is not trained, to measure its speed. Its `gates` are empty; not for use.

    Raises:
        UsageError: int8 without calibration images or of no classifier, or `out` cannot be written.
        UnknownNameError: no such format in that precision.
    """
    with new_folder(out) as part:
        return _write(bundle, part, format=format, precision=precision, calibration=calibration)


def maker_of(format: Format, precision: Precision) -> Maker:
    """What makes files of that format in that precision.

    Raises:
        UsageError: it can be made, but not here; says where.
        UnknownNameError: nothing does; names the pairs that there are.
    """
    if (format, precision) in MADE_ELSEWHERE:
        wanted, do = MADE_ELSEWHERE[format, precision]
        raise UsageError(f"{format} in {precision}", wanted=wanted, do=do)
    if (format, precision) not in FORMATS:
        raise UnknownNameError("format", f"{format} {precision}", known=[" ".join(pair) for pair in FORMATS])
    return FORMATS[format, precision]


def describe(artifact: Artifact) -> str:
    """The gates in one line each."""
    words = {"at_most": "<=", "at_least": ">="}
    return "\n".join(f"  {g.name} {g.value:.4g} {words[g.passes]} {g.limit:g} ({g.n} {g.on})" for g in artifact.gates)


def _write(
    bundle: Bundle,
    folder: Path,
    *,
    format: Format,
    precision: Precision,
    calibration: Calibration | None,
    maker: Maker | None = None,
) -> Artifact:
    if precision == "int8":
        only_classifiers(bundle.task, what="int8")  # which rows stay float32 is judged by top-1
    made = (maker or maker_of(format, precision))(bundle, calibration)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in made.items()}
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    file = next(iter(made))
    counted = cost(bundle.spec)
    artifact = Artifact(
        file=file,
        format=format,
        precision=precision,
        task=bundle.task,
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
        spec_name=bundle.spec.name,
        spec_digest=bundle.spec.digest,
        bundle_digest=bundle.digest,
        parameters=counted.parameters,
        mult_adds=counted.mult_adds,
        size_mb=sum(len(content) for content in made.values()) / 1e6,
        file_sha256=digests.pop(file),
        companions=digests,
        versions=_versions(format),
        table=bundle.spec.to_json(),
    )
    write_json(folder / "artifact.json", to_json(artifact))
    return artifact


def _answers(artifact: Artifact, folder: Path, images: GateImages) -> NDArray[np.float32]:
    """Logits (N, classes) by the format's own engine; by its converter where that is not here, or runs elsewhere."""
    if artifact.format in ELSEWHERE or (artifact.format == "executorch" and not is_installed("executorch")):
        from .outside import answers_outside

        return answers_outside(artifact, folder, images.images)
    own, *_ = engines_for(artifact.format)
    return run_batches(open_artifact(folder, engine=own).engine, images.images, batch_size=GATE_BATCH)


def _versions(format: Format) -> dict[str, str]:
    """Of what had a hand in the file and in its answers before the gate."""
    engines = [ENGINES[name].package.replace("_", "-") for name in engines_for(format)[:1]]  # ai-edge-litert
    versions = {}
    for name in ("mobilenets", "onnx", "torch", *engines, "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # a converter in an environment of its own
            versions[name] = metadata.version(name)
    return versions


def _speed_gate(slow: Path, fast: Path, limit: float, *, threads: int | None) -> Gate:
    """How many times faster, by the medians of two models timed in turn.

    Of up to SPEED_TRIES tries the quietest counts, for each of the two: other work on the machine only ever makes a
    model look slower.
    """
    entries = [Entry(path=str(path), engine=engines_for(read_artifact(path)[0].format)[0]) for path in (slow, fast)]
    best_before = best_after = math.inf
    rounds = 0
    for _ in range(SPEED_TRIES):
        before, after = measure_all(entries, threads=threads, seconds=SPEED_SECONDS)
        if after.median_ms <= 0:
            raise FileFormatError("a latency of 0 ms", wanted="a clock that moves", do="measure again")
        best_before, best_after = min(best_before, before.median_ms), min(best_after, after.median_ms)
        rounds += after.rounds
        if best_before / best_after >= limit:
            break
    return Gate(
        name=SPEEDUP,
        value=best_before / best_after,
        limit=limit,
        passes="at_least",
        n=rounds,
        on="rounds timed in turn",
    )
