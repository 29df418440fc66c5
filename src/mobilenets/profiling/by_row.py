"""Artifact -> where its time goes, by row of its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from ..arch import ArchSpec
from ..errors import UsageError
from ..records import Artifact, Environment
from ..runtime import read_artifact
from .ask import ask
from .peaks import measure_peaks
from .reasons import reason
from .records import Operators, OperatorTime, Part, Peaks, Profile
from .table import LayerNeeds, layer_needs, part_names, roofline_ms, table_of
from .worker import OperatorsRequest

__all__ = ["OUTSIDE", "profile", "profile_of"]

SECONDS: Final = 1.0
OUTSIDE: Final = "outside"


def profile(
    path: Path,
    *,
    engine: str | None = None,
    threads: int | None = None,
    batch_size: int = 1,
    seconds: float = SECONDS,
    peaks: Peaks | None = None,
) -> Profile:
    """Where the time of an artifact goes: by row of its table, worst first, each with the reason. Needs no torch.

    The engine's own profiler measures operators, in a process of its own; operators belong to the row whose name they
    bear. The machine's peaks say what could be.

    Args:
        path: the artifact.
        engine: "onnxruntime" or "openvino"; by default the one that suits the artifact's format.
        threads: of the engine; by default the cores this process may use, at most 4.
        batch_size: images per run.
        seconds: for the profiled runs.
        peaks: as measured before with as many threads; by default they are measured now.

    Raises:
        FileFormatError: not an artifact, or a damaged one.
        UsageError: an engine that tells nothing of its operators; values below 1.
        CheckError: the process that measured died.
    """
    for name, value in (("threads", threads), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}", wanted="at least 1", do="give a positive number")
    if not seconds > 0:
        raise UsageError(f"seconds is {seconds}", wanted="a positive number", do="give one; 1 is the usual")
    artifact, folder = read_artifact(path)
    request = OperatorsRequest(path=str(folder), engine=engine, threads=threads, batch_size=batch_size, seconds=seconds)
    told = msgspec.convert(ask(request, name=str(path)), Operators)
    known = measure_peaks(threads=told.threads) if peaks is None else peaks
    return profile_of(told, artifact, name=str(path), batch_size=batch_size, peaks=known)


def profile_of(told: Operators, artifact: Artifact, *, name: str, batch_size: int, peaks: Peaks) -> Profile:
    """The profile, from what an engine told.

    Args:
        told: for one batch.
        artifact: which it ran.
        name: how it is called.
        batch_size: images in the batch.
        peaks: of the machine, with as many threads.

    Raises:
        SpecError: the artifact holds a table that cannot be.
    """
    spec = table_of(artifact)
    if spec is not None and not any(each.part.startswith("rows.") for each in told.operators):
        spec = None  # its operators do not bear the table's names
    parts, least = _by_part(told, artifact, spec, batch_size=batch_size, peaks=peaks)
    return Profile(
        name=name,
        format=artifact.format,
        precision=artifact.precision,
        batch_size=batch_size,
        engine=told.engine,
        version=told.version,
        threads=told.threads,
        cpu=Environment.capture().cpu,
        runs=told.runs,
        latency_ms=told.latency_ms,
        profiled_ms=told.profiled_ms,
        roofline_ms=least,
        table=spec is not None,
        parts=tuple(parts),
        operators=told.operators,
        peaks=peaks,
    )


def _by_part(
    told: Operators, artifact: Artifact, spec: ArchSpec | None, *, batch_size: int, peaks: Peaks
) -> tuple[list[Part], float]:
    """The parts, worst first, what is outside of them last; and the roofline of all together."""
    layers = () if spec is None else layer_needs(spec, precision=artifact.precision, batch_size=batch_size)
    least = roofline_ms(layers, peaks, artifact.precision)
    names = {} if spec is None else part_names(spec)
    all_weights = sum(layer.weight_bytes for layer in layers)
    ran: dict[str, list[OperatorTime]] = {} if spec is None else {name: [] for name in names}
    for operator in told.operators:
        where = (operator.part or OUTSIDE) if spec is not None else operator.kind
        ran.setdefault(where, []).append(operator)
    parts = []
    for where, operators in ran.items():
        if where == OUTSIDE:
            continue
        own = [layer for layer in layers if layer.part == where]
        if not operators and not own:
            continue
        memory = sum(
            peaks.memory_ms(layer.activation_bytes, within=layer.activation_bytes)
            + peaks.memory_ms(layer.weight_bytes, within=all_weights)
            for layer in own
        )
        words = reason(
            operators,
            own,
            peaks,
            engine=told.engine,
            precision=artifact.precision,
            least_ms=least.get(where, 0.0),
            memory_ms=memory,
        )
        what = names.get(where, _described(operators))
        parts.append(_part(where, what, operators, own, told, least=least.get(where, 0.0), reason=words))
    parts.sort(key=lambda part: -part.ms)
    return [*parts, *_outside(ran.get(OUTSIDE, []), told)], sum(least.values())


def _outside(operators: Sequence[OperatorTime], told: Operators) -> list[Part]:
    """What belongs to no row, so that the parts sum to the whole."""
    parts = []
    if operators:
        words = "stands between two rows, or bears no name of the table"
        parts.append(_part(OUTSIDE, _described(operators), operators, (), told, least=0.0, reason=words))
    between = told.profiled_ms - sum(each.ms for each in told.operators)
    words = f"the engine's calls, and its profiler: without it the whole takes {told.latency_ms:.3g} ms"
    part = _part(OUTSIDE, "between the operators", (), (), told, least=0.0, reason=words)
    return [*parts, msgspec.structs.replace(part, ms=between, share=between / told.profiled_ms)]


def _part(
    where: str,
    what: str,
    operators: Sequence[OperatorTime],
    layers: Sequence[LayerNeeds],
    told: Operators,
    *,
    least: float,
    reason: str,
) -> Part:
    ms = sum(each.ms for each in operators)
    weights = sum(layer.weight_bytes for layer in layers)
    return Part(
        part=where,
        what=what,
        ms=ms,
        share=ms / told.profiled_ms,
        operators=len(operators),
        mult_adds=sum(layer.mult_adds for layer in layers),
        needed_bytes=weights + sum(layer.activation_bytes for layer in layers),
        moved_bytes=weights + sum(each.moved_bytes for each in operators),
        roofline_ms=least,
        reason=reason,
    )


def _described(operators: Sequence[OperatorTime]) -> str:
    kinds = sorted({each.kind for each in operators})
    return ", ".join(kinds[:3]) + (" ..." if len(kinds) > 3 else "")
