"""How near measured networks come to what the machine can do, and what holds them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ..bench import Entry
from ..errors import UsageError
from ..records import Report, ReportRow, to_json
from ..runtime import read_artifact
from .by_row import profile
from .peaks import measure_peaks
from .records import Part, Peaks, Profile
from .table import layer_needs, roofline_ms, table_of
from .text import explained, peaks_text

__all__ = ["roofline_text", "with_roofline"]

MACHINE: Final = "this machine"
HOLDING: Final = 3  # parts that are told to hold a network back
SECONDS: Final = 1.0  # of a network's profile


def with_roofline(
    report: Report, entries: Sequence[Entry], *, seconds: float = SECONDS, peaks: Peaks | None = None
) -> Report:
    """A bench report, with this machine's peaks and how much of them each artifact reaches (Williams et al. 2009).

    The peaks are measured with the threads of the report, and so is a profile of each artifact whose engine can tell
    one.

    Args:
        report: of `bench`, of answers alone.
        entries: what was given to `bench`, in the same order; what is no artifact (a peer) is passed over.
        seconds: for each profile.
        peaks: as measured before with as many threads; by default they are measured now.

    Returns:
        The report with rows for the machine (`gemm_fp32_mult_adds_per_second` ..., `memory_bytes_per_second`), for each
        artifact (`roofline_ms`, `roofline_fraction`: the share of the measured median that the peaks explain) and for
        each of its parts (`part_ms`, `part_roofline_ms`); `protocol["roofline"]` says in words what holds it back.

    Raises:
        UsageError: entries that are not those of the report.
        CheckError: a process died.
    """
    names = list(report.protocol["engines"])
    if len(names) != len(entries):
        raise UsageError(
            f"a report of {len(names)} and {len(entries)} entries", wanted="as many", do="give those that were measured"
        )
    threads, batch_size = int(report.protocol["threads"]), int(report.protocol["batch_size"])
    known = measure_peaks(threads=threads) if peaks is None else peaks
    rows, networks = list(_machine_rows(known)), {}
    for name, entry in zip(names, entries, strict=True):
        if entry.worker != Entry(path=entry.path).worker:
            continue
        networks[name] = told = _network(name, entry, report, known, batch_size=batch_size, seconds=seconds)
        rows += told.pop("rows")
    words = {"peaks": to_json(known), "networks": networks}
    return msgspec.structs.replace(report, rows=(*report.rows, *rows), protocol={**report.protocol, "roofline": words})


def roofline_text(report: Report) -> str:
    """What `with_roofline` added, in lines; ends with a newline.

    Raises:
        KeyError: it added nothing to this report.
    """
    words = report.protocol["roofline"]
    lines = peaks_text(msgspec.convert(words["peaks"], Peaks))
    for name, told in words["networks"].items():
        if "fraction" not in told:
            lines.append(f"{name}: {told['why_not']}")
            continue
        lines.append(
            f"{name}: the peaks explain {told['roofline_ms']:.3f} of {told['latency_ms']:.3f} ms,"
            f" {explained(told['fraction'])}"
        )
        for part in told["held_back_by"]:
            lines.append(
                f"  {part['part']} ({part['what']}): {part['lost_ms']:.3f} ms more than its least; {part['reason']}"
            )
        if told.get("why_not"):
            lines.append(f"  which rows hold it back is not known: {told['why_not']}")
    return "\n".join(lines) + "\n"


def _machine_rows(peaks: Peaks) -> list[ReportRow]:
    rows = []
    for precision in dict.fromkeys(each.precision for each in peaks.gemm):
        best = peaks.rate(precision)
        metric = f"gemm_{precision}_mult_adds_per_second"
        rows.append(ReportRow(what=MACHINE, metric=metric, value=best.mult_adds_per_second, n=best.runs))
    last = peaks.bandwidth[-1]
    rows.append(ReportRow(what=MACHINE, metric="memory_bytes_per_second", value=last.bytes_per_second, n=last.runs))
    return rows


def _network(
    name: str, entry: Entry, report: Report, peaks: Peaks, *, batch_size: int, seconds: float
) -> dict[str, Any]:
    """What is told of one artifact, in words and, below "rows", in numbers."""
    artifact, _ = read_artifact(Path(entry.path))
    spec = table_of(artifact)
    if spec is None:
        return {"why_not": "its table is not known; export the bundle again", "rows": []}
    layers = layer_needs(spec, precision=artifact.precision, batch_size=batch_size)
    least = sum(roofline_ms(layers, peaks, artifact.precision).values())
    latency = report.value(name, "latency_ms")
    told: dict[str, Any] = {
        "latency_ms": latency,
        "roofline_ms": least,
        "fraction": least / latency,
        "held_back_by": [],
        "rows": [
            ReportRow(what=name, metric="roofline_ms", value=least, n=1),
            ReportRow(what=name, metric="roofline_fraction", value=least / latency, n=1),
        ],
    }
    engine = str(report.protocol["engines"][name]).partition(" ")[0]
    try:
        found = profile(
            Path(entry.path),
            engine=engine,
            threads=peaks.threads,
            batch_size=batch_size,
            seconds=seconds,
            peaks=peaks,
        )
    except UsageError as error:  # an engine without a profiler
        return told | {"why_not": error.got}
    told["held_back_by"] = [_held(part) for part in _holding(found)]
    told["rows"] += _part_rows(name, found)
    return told


def _holding(found: Profile) -> list[Part]:
    """The parts that lose most against their least time."""
    losing = sorted(found.parts, key=lambda part: part.roofline_ms - part.ms)
    return [part for part in losing[:HOLDING] if part.ms > part.roofline_ms]


def _held(part: Part) -> dict[str, Any]:
    return {
        "part": part.part,
        "what": part.what,
        "ms": part.ms,
        "lost_ms": part.ms - part.roofline_ms,
        "reason": part.reason,
    }


def _part_rows(name: str, found: Profile) -> list[ReportRow]:
    rows = []
    for part in found.parts:
        what = f"{name} {part.part}" + (f" {part.what}" if part.part == "outside" else "")
        rows.append(ReportRow(what=what, metric="part_ms", value=part.ms, n=found.runs))
        if part.mult_adds:
            rows.append(ReportRow(what=what, metric="part_roofline_ms", value=part.roofline_ms, n=1))
    return rows
