"""Trained weights that candidates begin from: a person's own, or published ones by family and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from ..arch import ArchSpec, parts_of
from ..bundle import Bundle
from ..errors import UsageError
from ..progress import say
from ..weights import trained_weights
from ..weights.hub import hub_answers, is_cached
from ..weights.published import named, repository_of, table_of

__all__ = ["PUBLISHED", "Start", "Starts", "Weights"]

# Where candidates' weights come from: nowhere; published ones, which must be reached, or are used if they can be; or
# bundles, checkpoints and names, as `weights.trained_weights` takes them.
Weights: TypeAlias = Literal["none", "published", "auto"] | Sequence[str]

# The best for each family and width, with its published ImageNet top-1 in per cent at its own resolution: timm's
# results/results-imagenet.csv (commit aa4b5850c154), and TF-slim's tables for Google's. All are licensed Apache-2.0.
PUBLISHED: Mapping[str, float] = MappingProxyType(
    {
        "hf:google/mobilenet_v1_0.75_192": 67.2,
        "timm:mobilenetv1_100.ra4_e3600_r224_in1k": 75.388,
        "timm:mobilenetv1_125.ra4_e3600_r224_in1k": 76.92,
        "hf:google/mobilenet_v2_0.35_96": 45.5,
        "timm:mobilenetv2_050.lamb_in1k": 65.928,
        "hf:google/mobilenet_v2_0.75_160": 66.4,
        "timm:mobilenetv2_100.ra_in1k": 72.91,
        "timm:mobilenetv2_140.ra_in1k": 76.528,
        "timm:tf_mobilenetv3_large_075.in1k": 73.442,
        "timm:mobilenetv3_large_100.miil_in21k_ft_in1k": 77.92,
        "timm:mobilenetv3_small_050.lamb_in1k": 57.918,
        "timm:mobilenetv3_small_075.lamb_in1k": 65.284,
        "timm:mobilenetv3_small_100.lamb_in1k": 67.636,
        "timm:mobilenetv4_conv_small_050.e3000_r224_in1k": 64.778,
        "timm:mobilenetv4_conv_small.e2400_r224_in1k": 73.756,
        "timm:mobilenetv4_conv_medium.e500_r224_in1k": 79.092,
    }
)


@dataclass(frozen=True)
class Start:
    """One network that a candidate can begin from."""

    source: str  # as `weights.trained_weights` takes it
    family: str  # its row in the catalogue
    alpha: float
    spec: ArchSpec  # its table, with its own classes, at its own resolution
    top1: float | None = None  # published ImageNet top-1 in per cent, there; None: not known


class Starts:
    """What candidates begin from. Published weights are fetched when a candidate that begins from them is trained."""

    def __init__(self, weights: Weights = "none") -> None:
        """Reads a person's own files, and fetches what is named.

        Raises:
            UsageError: a source is no MobileNet of the catalogue, or of one family and width there are two. And what
                else `weights.trained_weights` raises.
        """
        self._published = weights if weights in ("auto", "published") else None
        named = () if weights in ("none", "auto", "published") else (weights,) if isinstance(weights, str) else weights
        self._bundles = {source: trained_weights(source) for source in named}
        self._own = tuple(_start_of(source, bundle) for source, bundle in self._bundles.items())
        seen: dict[tuple[str, float], str] = {}
        for start in self._own:
            other = seen.setdefault((start.family, start.alpha), start.source)
            if other != start.source:
                raise UsageError(
                    f"{other} and {start.source} are both {start.family} of width {start.alpha:g}",
                    wanted="one set of weights for each family and width",
                    do="leave one of them away",
                )

    @property
    def identity(self) -> list[str]:
        """What makes another fit of it: digests of what was given, or a word; nothing for "auto", the usual."""
        given = sorted(self._bundles[start.source].digest for start in self._own)
        return given or {"auto": [], "published": ["published"], None: ["no weights"]}[self._published]

    def had(
        self, families: Sequence[str] | None, alphas: Sequence[float] | None, *, unasked: bool
    ) -> tuple[Start, ...]:
        """Those of some families and widths; published ones where the hub answers, or as far as its cache holds them.

        Args:
            families: rows of the catalogue; None: all.
            alphas: width multipliers; None: all.
            unasked: whether "auto" means published ones here.

        Raises:
            UsageError: published weights are asked for by name and none can be had.
        """
        if self._published == "auto" and not unasked:
            return ()
        there = _published(must=self._published == "published") if self._published else self._own
        wanted = tuple(
            start
            for start in there
            if (families is None or start.family in families) and (alphas is None or start.alpha in alphas)
        )
        if there and not wanted:
            say(f"none of {len(there)} sets of weights is of these families and widths: networks begin from nothing")
        return wanted

    def bundle(self, source: str) -> Bundle:
        """The weights of a source, fetched if they are not here yet.

        Raises:
            UsageError: they cannot be fetched. And what else `weights.trained_weights` raises.
        """
        if source not in self._bundles:
            self._bundles[source] = trained_weights(source)
        return self._bundles[source]


def _start_of(source: str, bundle: Bundle) -> Start:
    parts = parts_of(bundle.spec.name)
    if parts is None:
        raise UsageError(
            f"{source} is {bundle.spec.name}, a table of its own",
            wanted="weights of a network that `mobilenets models` lists, at any width",
            do="train it with `mobilenets train`, or cut and quantise it with `mobilenets compress`",
        )
    return Start(source=source, family=parts.base, alpha=parts.alpha, spec=bundle.spec)


def _published(*, must: bool) -> tuple[Start, ...]:
    """Those that can be had: all where the hub answers, else what its cache holds."""
    names = {source: name for source in PUBLISHED if (name := named(source)) is not None}
    repositories = {source: repository_of(name) or "" for source, name in names.items()}
    had = list(names)
    if not hub_answers(repositories[had[0]]):
        had = [source for source in names if is_cached(repositories[source])]
        if not had and must:
            raise UsageError(
                "the Hugging Face hub cannot be reached, and its cache holds no MobileNet",
                wanted="a network, or weights on disk",
                do="give --weights files that you have, or --weights none",
            )
        say(
            f"the Hugging Face hub cannot be reached: {len(had)} of {len(names)} published networks are in its cache"
            if had
            else "the Hugging Face hub cannot be reached: networks begin without published weights"
        )
    starts = []
    for source in had:
        parts = parts_of(names[source].model)
        assert parts is not None  # PUBLISHED holds none else; a test reads it
        starts.append(
            Start(
                source=source,
                family=parts.base,
                alpha=parts.alpha,
                spec=table_of(names[source]),
                top1=PUBLISHED[source],
            )
        )
    return tuple(starts)
