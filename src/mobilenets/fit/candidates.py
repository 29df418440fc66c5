"""The networks a fit considers: families x alpha x rho, as specs, with what they promise. No torch.

Nothing is trained or run here; costs are counted from the tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..arch import CATALOG, ArchSpec, compose, cost, facts, split_name, with_classes
from ..arch.cost import Cost
from ..arch.narrower import at_resolution
from ..errors import UnknownNameError, UsageError
from ..records import Precision

if TYPE_CHECKING:
    from .starts import Start

__all__ = [
    "ALPHAS",
    "FAMILIES",
    "Option",
    "in_order_of_promise",
    "options",
    "promise",
    "resolutions_for",
    "within_reach",
]

FAMILIES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
# Of V4, for photos and for thumbnails (docs/decisions.md); its larger networks can be asked for.
V4_FOR_PHOTOS, V4_FOR_THUMBNAILS = "mobilenet_v4_conv_small", "mobilenet_v4_fused"
# No accuracy of ours is published: it is taken for the network whose blocks it has.
_PROMISES_AS = {V4_FOR_THUMBNAILS: V4_FOR_PHOTOS}
ALPHAS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3)
RESOLUTIONS = (224, 192, 160, 128, 96)  # V1 and V2 were published at these
SMALL_SHARES = (1.0, 0.75)  # of the native side, for images too small for the published resolutions
ENLARGED = 4.0  # thumbnails are made at most this much larger for networks that know photos already
INT8_SIZE = 0.27  # of the float32 file: a byte a weight, and the scales
DISTINCT = 0.65  # two networks of a family are tried side by side only if one has at most this part of the other's cost
# Thumbnails have no pixels to spare: giving up a quarter of them is taken to cost what it costs at 128 of 224 pixels.
SMALL_RHO = 128 / 224
ENOUGH_POINTS = 8  # for five coefficients
ENOUGH_EPOCHS = 16.0
ENOUGH_EPOCHS_MORE = 4.0  # of a network that goes on from trained weights
HALVING = 6.0


@dataclass(frozen=True)
class Option:
    """A candidate before anything is measured."""

    spec: ArchSpec
    family: str
    alpha: float
    precision: Precision
    cost: Cost
    promise: float
    start: str | None = None  # whose weights it begins from; None: nobody's

    @property
    def size_mb(self) -> float:
        """The exported file's size as far as the tensors tell."""
        folded = 4 * self.cost.parameters / 1e6
        return folded if self.precision == "fp32" else folded * INT8_SIZE


def options(
    *,
    classes: int,
    native_side: int | None,
    families: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    starts: Sequence[Start] = (),
) -> tuple[Option, ...]:
    """Every candidate, biggest promise first.

    With weights to begin from, candidates are their networks and no others. They know photos, so thumbnails are
    enlarged for them.

    Args:
        classes: number of labels.
        native_side: side of the images where all are small and alike (digits 28, CIFAR 32), else None. Small images
            get tables with strides turned off.
        families: rows of the catalogue, or `mobilenet_v4_fused`; None: those that suit the images.
        alphas: width multipliers; None: `ALPHAS`.
        resolutions: input sides in pixels; None: those that suit the images.
        precisions: of the exported file.
        starts: weights that candidates begin from, of whatever families and widths; empty: all begin from nothing.

    Raises:
        UnknownNameError: there is no such family.
        UsageError: nothing to choose from.
    """
    known = (*CATALOG, *_PROMISES_AS)
    for family in families or ():
        if family not in known:
            raise UnknownNameError("family", family, known=known)
    sides = resolutions_for(native_side, enlarged=bool(starts)) if resolutions is None else tuple(resolutions)
    tables: list[tuple[str, float, ArchSpec, Start | None]]
    if starts:
        tables = [
            (start.family, start.alpha, at_resolution(with_classes(start.spec, classes), side), start)
            for start in starts
            for side in sides
        ]
    else:
        tables = [
            (family, alpha, compose(family, alpha=alpha, resolution=side, stride=stride, classes=classes), None)
            for family in (families_for(native_side) if families is None else families)
            # A lower rho keeps the total stride of the native side: it is to cost less, not to buy back a larger map.
            for stride in [_small_stride(family, native_side)]
            for alpha in (ALPHAS if alphas is None else alphas)
            for side in sides
        ]
    if not (tables and precisions):
        raise UsageError("an empty choice of networks", wanted="a family, an alpha, a resolution", do="name some")
    whole = RESOLUTIONS[0] if starts or native_side is None else native_side / SMALL_RHO
    made = [
        Option(
            spec=spec,
            family=family,
            alpha=alpha,
            precision=precision,
            cost=cost(spec),
            promise=promise(family, alpha=alpha, rho=spec.resolution / whole) + _ahead(start),
            start=None if start is None else start.source,
        )
        for family, alpha, spec, start in tables
        for precision in precisions
    ]
    return tuple(sorted(made, key=lambda option: -option.promise))


def families_for(native_side: int | None) -> tuple[str, ...]:
    """Who competes where nobody says who."""
    return (*FAMILIES, V4_FOR_PHOTOS if native_side is None else V4_FOR_THUMBNAILS)


def resolutions_for(native_side: int | None, *, enlarged: bool = False) -> tuple[int, ...]:
    """Input sides in pixels, largest first; `enlarged`: of thumbnails that are made as large as sensible."""
    if native_side is None:
        return RESOLUTIONS
    if enlarged:
        return tuple(side for side in RESOLUTIONS if side <= ENLARGED * native_side) or RESOLUTIONS[-1:]
    return tuple(dict.fromkeys(max(8, round(native_side * share)) for share in SMALL_SHARES))


def promise(family: str, *, alpha: float, rho: float) -> float:
    """ImageNet top-1 in per cent that the published models of a family suggest for alpha and rho (1 = 224 pixels).

    A surface through the published (alpha, resolution, accuracy) points, quadratic in log alpha and log rho. It only
    decides what is tried first; what is chosen is decided by training.
    """
    weights = _surface(_PROMISES_AS.get(family, family))
    return float(_features(alpha, rho) @ weights)


def _ahead(start: Start | None) -> float:
    """Points by which published weights are ahead of what their family's table promises, at their own resolution."""
    if start is None or start.top1 is None:
        return 0.0
    return start.top1 - promise(start.family, alpha=start.alpha, rho=start.spec.resolution / RESOLUTIONS[0])


def within_reach(option: Option, *, epochs: float) -> float:
    """The promise of an option that is trained for so many epochs only.

    The published accuracies are those of networks trained to their end. Short of ENOUGH_EPOCHS, each halving is
    taken to cost HALVING points: a rough figure from CIFAR-10 runs (`docs/log.md`), which like the promise only orders.
    """
    enough = ENOUGH_EPOCHS if option.start is None else ENOUGH_EPOCHS_MORE
    return option.promise - HALVING * max(0.0, math.log2(enough / max(epochs, 1e-9)))


def in_order_of_promise(fitting: Mapping[Option, float], *, most: int) -> tuple[Option, ...]:
    """Which of the options that fit to train first: the best of each family, then clearly others of each.

    A network of the same family is passed over while one with nearly its cost is in.

    Args:
        fitting: options with what they promise.
        most: how many.
    """
    chosen: list[Option] = []
    waiting = sorted(fitting, key=lambda option: -fitting[option])
    while waiting and len(chosen) < most:
        this_turn: set[str] = set()
        for option in list(waiting):
            near = [c for c in chosen if c.family == option.family and _near(c, option)]
            if near:
                waiting.remove(option)
            elif option.family not in this_turn and len(chosen) < most:
                this_turn.add(option.family)
                chosen.append(option)
                waiting.remove(option)
        if not this_turn:
            break
    return tuple(chosen)


def _small_stride(family: str, native_side: int | None) -> int | None:
    if native_side is None:
        return None
    return list(compose(family, resolution=native_side, stride="small").placed())[-1].reduction


def _near(one: Option, other: Option) -> bool:
    small, large = sorted((one.cost.mult_adds, other.cost.mult_adds))
    return small > DISTINCT * large


def _features(alpha: float, rho: float) -> NDArray[np.float64]:
    a, r = math.log(alpha), math.log(rho)
    return np.array([1.0, a, a * a, r, r * r])


@functools.cache
def _surface(family: str) -> NDArray[np.float64]:
    points = []
    for fact in facts():
        parts = split_name(fact.model)
        if fact.metric == "top1" and parts is not None and parts.base == family:
            side = CATALOG[family]().resolution if parts.resolution is None else parts.resolution
            points.append((*_features(parts.alpha, side / 224), fact.value))
    if not points:
        raise UsageError(f"no published accuracy for {family}", wanted="a family with published models", do="add facts")
    table = np.array(points)
    if len(points) < ENOUGH_POINTS:  # of a family published at a few points only: V2's surface, lifted to them
        weights = _surface("mobilenet_v2").copy()
        weights[0] += float(np.mean(table[:, 5] - table[:, :5] @ weights))
        return weights
    weights, *_ = np.linalg.lstsq(table[:, :5], table[:, 5], rcond=None)
    return np.asarray(weights)
