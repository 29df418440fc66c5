"""Published accuracy against what we count: Figures 4 and 5 of the V1 paper, and the front of the whole family."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from ..errors import MissingExtraError, UsageError
from ..files import write_bytes
from .catalog import find, split_name
from .cost import cost
from .published import tables

__all__ = ["NetworkPoint", "draw", "points", "write_figures"]

DPI = 130
FONT = 9  # points; labels inside a picture are two smaller
# Okabe and Ito's colours, which the colour-blind can tell apart, in the order of need
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKS = ("o", "s", "^", "D", "X", "v", "P")
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "mobilenet_v1": "V1",
        "mobilenet_v2": "V2",
        "mobilenet_v3_large": "V3-Large",
        "mobilenet_v3_small": "V3-Small",
        "minimalistic": "V3 minimalistic",
        "mobilenet_v4_conv": "V4-Conv",
        "mobilenet_v4_hybrid": "V4-Hybrid",
    }
)
# The published network whose name the front shows, and where its label stands: points right of it and above it
NAMED: Mapping[str, tuple[str, tuple[int, int]]] = MappingProxyType(
    {
        "mobilenet_v1": ("V1", (6, -11)),
        "mobilenet_v2": ("V2", (4, -13)),
        "mobilenet_v3_large": ("V3-Large", (-46, 6)),
        "mobilenet_v3_small": ("V3-Small", (-44, 8)),
        "mobilenet_v4_conv_small": ("V4-Conv-S", (8, -2)),
        "mobilenet_v4_conv_medium": ("V4-Conv-M", (7, -9)),
        "mobilenet_v4_conv_large": ("V4-Conv-L", (4, -15)),
        "mobilenet_v4_hybrid_medium": ("V4-Hybrid-M", (-62, 5)),
        "mobilenet_v4_hybrid_large": ("V4-Hybrid-L", (-38, 9)),
    }
)


class NetworkPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A published accuracy beside our counts."""

    model: str
    family: str  # a key of FAMILIES
    alpha: float
    resolution: int  # pixels a side
    top1: float  # ImageNet per cent, as its authors measured it
    mult_adds: int
    parameters: int


def points() -> tuple[NetworkPoint, ...]:
    """Every network with a published accuracy, in the order of the tables."""
    found = []
    for table in tables():
        for fact in table.facts:
            parts = split_name(fact.model) if fact.metric == "top1" else None
            if parts is None:
                continue
            spec = find(fact.model)
            counted = cost(spec)
            found.append(
                NetworkPoint(
                    model=fact.model,
                    family=_family(parts.base),
                    alpha=parts.alpha,
                    resolution=spec.resolution,
                    top1=fact.value,
                    mult_adds=counted.mult_adds,
                    parameters=counted.parameters,
                )
            )
    return tuple(found)


def _family(base: str) -> str:
    if base.endswith("_minimalistic"):
        return "minimalistic"
    for family in FAMILIES:
        if base.startswith(family):
            return family
    raise UsageError(f"{base} is of no family", wanted=", ".join(FAMILIES), do="add its family to the figures")


def write_figures(where: Path) -> tuple[Path, ...]:
    """Draw the pictures as PNG.

    Args:
        where: a file `.png` for all three in one picture; otherwise a folder, made if needed, for one file each.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: it is a file of another type, or cannot be written.
    """
    names = tuple(_PICTURES)
    suffix = where.suffix.lower()
    if suffix and not where.is_dir() and suffix != ".png" and suffix[1:].isalpha():
        raise UsageError(
            f"a picture {where}", wanted="a folder, or a file .png", do=f"write {where.with_suffix('.png')}"
        )
    whole = suffix == ".png"
    files = {where: draw(*names)} if whole else {where / f"{name}.png": draw(name) for name in names}
    for path, content in files.items():
        write_bytes(path, content)
    return tuple(files)


def draw(*names: str) -> bytes:
    """Pictures side by side, as the bytes of a PNG.

    Args:
        names: "v1_figure_4", "v1_figure_5", "front".

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: there is no such picture.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", extra="train") from error
    unknown = [name for name in names if name not in _PICTURES]
    if unknown or not names:
        raise UsageError(f"pictures {unknown}", wanted=", ".join(_PICTURES), do="name some of these")
    widths = [_WIDTHS[name] for name in names]
    # a figure of its own; pyplot would keep it in a list of the process
    figure = Figure(figsize=(sum(widths), 5.0), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False, width_ratios=widths)
    known = points()
    for axes, name in zip(grid[0], names, strict=True):
        _PICTURES[name](axes, known)
        axes.set_axisbelow(True)
        axes.grid(which="major", alpha=0.35, linewidth=0.6)
        axes.tick_params(labelsize=FONT - 1)
        axes.set_ylabel("ImageNet top-1 (%), as published", fontsize=FONT)
        axes.xaxis.label.set_size(FONT)
        axes.title.set_size(FONT + 1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure_4(axes: Any, known: tuple[NetworkPoint, ...]) -> None:
    """V1 Figure 4: accuracy against mult-adds of the 16 networks."""
    v1 = [point for point in known if point.family == "mobilenet_v1"]
    _by_alpha_and_resolution(axes, v1, x="mult_adds")
    axes.set_xticks([10e6, 20e6, 50e6, 100e6, 200e6, 500e6], ["10", "20", "50", "100", "200", "500"])
    axes.set(
        xlabel="mult-adds (millions, log scale), as we count them",
        title="MobileNetV1: accuracy against mult-adds\n(V1 Figure 4; accuracies of TF-slim's checkpoints)",
    )


def _figure_5(axes: Any, known: tuple[NetworkPoint, ...]) -> None:
    """V1 Figure 5: accuracy against parameters; resolution changes the one and not the other."""
    v1 = [point for point in known if point.family == "mobilenet_v1"]
    _by_alpha_and_resolution(axes, v1, x="parameters")
    axes.set_xticks([0.5e6, 1e6, 2e6, 4e6], ["0.5", "1", "2", "4"])
    axes.set(
        xlabel="parameters (millions, log scale), as we count them",
        title="MobileNetV1: accuracy against parameters\n(V1 Figure 5; accuracies of TF-slim's checkpoints)",
    )


def _by_alpha_and_resolution(axes: Any, v1: list[NetworkPoint], *, x: str) -> None:
    alphas = sorted({point.alpha for point in v1}, reverse=True)
    sides = sorted({point.resolution for point in v1}, reverse=True)
    for alpha, colour in zip(alphas, COLOURS, strict=False):
        of_alpha = sorted((point for point in v1 if point.alpha == alpha), key=lambda point: point.resolution)
        axes.plot(
            [getattr(point, x) for point in of_alpha], [point.top1 for point in of_alpha], color=colour, alpha=0.45
        )
        for point in of_alpha:
            mark = MARKS[sides.index(point.resolution)]
            axes.plot(getattr(point, x), point.top1, mark, color=colour, markersize=7, markeredgecolor="white")
        axes.plot([], [], color=colour, linewidth=3, label=f"alpha {alpha:g}")
    for side, mark in zip(sides, MARKS, strict=False):
        axes.plot([], [], mark, color="#555555", markersize=6, label=f"{side} x {side}")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.legend(loc="lower right", ncols=2, fontsize=FONT - 1, framealpha=0.95)


def _front(axes: Any, known: tuple[NetworkPoint, ...]) -> None:
    """Accuracy against mult-adds of all families, and the line of those that none beats in both."""
    for (family, label), colour, mark in zip(FAMILIES.items(), COLOURS, MARKS, strict=True):
        of_family = [point for point in known if point.family == family]
        axes.plot(
            [point.mult_adds for point in of_family],
            [point.top1 for point in of_family],
            mark,
            color=colour,
            markersize=7,
            markeredgecolor="white",
            label=label,
        )
    best: list[NetworkPoint] = []
    for point in sorted(known, key=lambda point: (point.mult_adds, -point.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    axes.plot(
        [point.mult_adds for point in best],
        [point.top1 for point in best],
        color="#333333",
        linewidth=1.0,
        zorder=1,
        label="front",
    )
    for point in known:
        if point.model in NAMED:
            label, place = NAMED[point.model]
            axes.annotate(
                label, (point.mult_adds, point.top1), xytext=place, textcoords="offset points", fontsize=FONT - 2
            )
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(
        [10e6, 30e6, 100e6, 300e6, 1e9, 3e9, 10e9], ["10 M", "30 M", "100 M", "300 M", "1 B", "3 B", "10 B"]
    )
    axes.set_xlim(8e6, 13e9)
    axes.set_ylim(39, 88)
    axes.legend(loc="lower right", fontsize=FONT - 1, framealpha=0.95)
    axes.set(
        xlabel="mult-adds (log scale), as we count them",
        title="All families: accuracy against mult-adds\n(V3 of its Table 9, V4 of its Table 6, which trains longer; "
        "the others of TF-slim's checkpoints)",
    )


_PICTURES: Mapping[str, Callable[[Any, tuple[NetworkPoint, ...]], None]] = MappingProxyType(
    {"v1_figure_4": _figure_4, "v1_figure_5": _figure_5, "front": _front}
)
_WIDTHS: Mapping[str, float] = MappingProxyType({"v1_figure_4": 6.2, "v1_figure_5": 6.2, "front": 7.4})  # inches
