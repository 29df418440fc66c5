"""A bench report as a picture: latencies with their intervals, and sizes beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from ..errors import MissingExtraError, UsageError
from ..records import Report

__all__ = ["PictureFormat", "draw", "picture_format"]

PictureFormat = Literal["png", "svg"]
SUFFIXES: Final[Mapping[str, PictureFormat]] = MappingProxyType({".png": "png", ".svg": "svg"})
DPI: Final = 130
WIDTH: Final = 9.0  # inches
ROW: Final = 0.34  # inches for each artifact
MARGINS: Final = 1.3  # inches above and below
LONGEST: Final = 44  # letters of a name; of a path the end tells more
# Okabe and Ito's colours, which the colour-blind can tell apart; one for each engine
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDE: Final = 20.0  # times the fastest: from there on the axis is logarithmic


def picture_format(path: Path) -> PictureFormat:
    """What a file's name asks for.

    Raises:
        UsageError: neither .png nor .svg.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"a picture {path}", wanted=" or ".join(SUFFIXES), do=f"write {path.with_suffix('.png')}")
    return SUFFIXES[suffix]


def draw(report: Report, *, kind: PictureFormat) -> bytes:
    """The median latency of each artifact with its 95 % interval, the fastest at the top; and sizes, where known.

    Args:
        report: of `bench`.
        kind: of picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: the report holds no latency.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", extra="train") from error
    names = [row.what for row in report.rows if row.metric == "latency_ms"]
    if not names:
        raise UsageError("a report without latencies", wanted="one of bench", do="measure something")
    names.sort(key=lambda name: -report.value(name, "latency_ms"))
    sizes = {row.what: row.value for row in report.rows if row.metric == "size_mb"}
    # A figure of its own; pyplot would keep it in a list of the process.
    figure = Figure(figsize=(WIDTH, MARGINS + ROW * len(names)), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, 2 if sizes else 1, sharey=True, squeeze=False, width_ratios=(3, 1) if sizes else (1,))
    _latencies(grid[0][0], report, names)
    if sizes:
        _sizes(grid[0][1], names, sizes)
    buffer = io.BytesIO()
    # svg.hashsalt and no date: the same report gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "mobilenets", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _latencies(axes: Any, report: Report, names: list[str]) -> None:
    engines = report.protocol["engines"]
    kinds = list(dict.fromkeys(str(engines[name]) for name in names[::-1]))
    for kind in kinds:
        places = [place for place, name in enumerate(names) if engines[name] == kind]
        middle = [report.value(names[place], "latency_ms") for place in places]
        ends = [
            [abs(report.value(names[place], f"latency_ms_{end}") - middle[k]) for k, place in enumerate(places)]
            for end in ("low", "high")
        ]
        colour = COLOURS[kinds.index(kind) % len(COLOURS)]
        axes.errorbar(middle, places, xerr=ends, fmt="o", color=colour, markersize=5, capsize=3, label=kind)
        for place, ms in zip(places, middle, strict=True):
            axes.annotate(f"{ms:.3g}", (ms, place), (0, 5), textcoords="offset points", fontsize=7, ha="center")
    all_ms = [report.value(name, "latency_ms") for name in names]
    if max(all_ms) > WIDE * min(all_ms):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8, parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.2)
    protocol = report.protocol
    axes.set_xlabel(f"ms per batch of {protocol['batch_size']}, {protocol['threads']} thread(s); bars: 95 % interval")
    axes.set_title(f"{report.title}; {report.environment.cpu}", fontsize=9, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7, loc="upper right")


def _sizes(axes: Any, names: list[str], sizes: Mapping[str, float]) -> None:
    known = [(place, sizes[name]) for place, name in enumerate(names) if name in sizes]
    bars = axes.barh([place for place, _ in known], [size for _, size in known], height=0.5, color="#999999")
    axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.margins(x=0.25)
    axes.set_xlabel("MB of the file")
    axes.grid(axis="x", alpha=0.3)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
