"""How much each channel matters: one number for every unit of every width.

A channel that goes takes its part of every tensor of its tied group with it, so all of them are asked. What the weights
alone can tell is here; `taylor` asks images too.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec
from ..bundle import Bundle, Tensors
from ..errors import UsageError
from .widths import Place, Width, widths, wiring

__all__ = ["Importance", "Scores", "WeightImportance", "of_units", "weight_scores"]

Importance = Literal["l1", "l2", "norm", "taylor"]
WeightImportance = Literal["l1", "l2", "norm"]
Scores: TypeAlias = Mapping[str, NDArray[np.float64]]  # width's name -> (size,), at least 0


def weight_scores(bundle: Bundle, importance: WeightImportance) -> Scores:
    """What the weights say about every unit.

    - "l1": the sum of the absolute weights of a filter (Li et al. 2017, "Pruning Filters for Efficient ConvNets",
      section 3.1). "l2": the root of the sum of their squares (He et al. 2018, "Soft Filter Pruning", section 3.2).
      A norm undoes any scale of the filter before it, so weights are taken with their norms and layer scales folded in.
    - "norm": the scale |gamma| of the norm behind the filter (Liu et al. 2017, "Network Slimming", section 3). Widths
      that have no norm (squeezed ones, heads and values of an attention, V3's hidden layer) are judged by "l2".

    Each tensor's numbers are divided by their mean, then averaged over the tensors of the tied group (the grouped
    importance of Fang et al. 2023, "DepGraph", section 3.3), and divided by their sum: a score is a unit's share of
    its width, for weights of one layer are no larger than another's because they matter more.

    Raises:
        UsageError: "norm" for norms that came folded and are all alike; or no such importance.
    """
    spec, tensors = bundle.spec, bundle.tensors
    if importance not in ("l1", "l2", "norm"):
        raise UsageError(f"importance = {importance!r}", wanted="l1, l2 or norm", do="choose one of these")
    if importance == "norm" and bundle.folded_norms:
        raise UsageError(
            "importance by norms, and the norms of this bundle came folded into its convolutions",
            wanted="norms with scales of their own",
            do="choose l1, l2 or taylor, or train first",
        )
    whole = _folded(spec, tensors)
    norms = _norms(spec)
    scores: dict[str, NDArray[np.float64]] = {}
    for width in widths(spec):
        scales = [place for place in width.places if place.tensor in norms and place.axis == 0]
        if importance == "norm" and scales:
            parts = [np.abs(np.asarray(tensors[place.tensor], np.float64)) for place in scales]
        else:
            power = 1 if importance == "l1" else 2
            found = [place for place in width.places if place.tensor in whole]
            parts = [_sums(np.abs(whole[place.tensor]) ** power, width, place) ** (1 / power) for place in found]
        score = np.mean([_divided(part, float(part.mean())) for part in parts], axis=0)
        scores[width.name] = _divided(score, float(score.sum()))
    return scores


def of_units(tensor: NDArray[np.float64], width: Width, place: Place) -> NDArray[np.float64]:
    """A tensor as a matrix (size, everything else): one line for each unit of a width that lies along it."""
    ahead = np.moveaxis(tensor, place.axis, 0)
    units = ahead.reshape(place.times, width.size, place.block, -1)
    return np.moveaxis(units, 1, 0).reshape(width.size, -1)


def _sums(tensor: NDArray[np.float64], width: Width, place: Place) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = of_units(tensor, width, place).sum(axis=1)
    return sums


def _divided(values: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    # A tensor that is all zero tells its units no better from each other than one that is all alike.
    return values / by if by > 0 else np.full_like(values, 1.0 / len(values))


def _folded(spec: ArchSpec, tensors: Tensors) -> dict[str, NDArray[np.float64]]:
    """The weights of convolutions and linear layers as evaluation uses them, float64."""
    folded: dict[str, NDArray[np.float64]] = {}
    name = ""
    for at, layer, _, _ in wiring(spec):
        if layer.kind == "scale":  # behind the projection of the same row
            folded[name] *= np.asarray(tensors[f"{at}.gamma"], np.float64).reshape(-1, 1, 1, 1)
        elif layer.kind not in ("norm", "attention"):
            name = f"{at}.weight" if layer.on == "vector" else f"{at}.conv.weight"
            weight = np.array(tensors[name], np.float64)
            if layer.norm:
                norm = _norm_of(at, on_vector=layer.on == "vector")
                gamma, variance = (
                    np.asarray(tensors[f"{norm}.{part}"], np.float64) for part in ("weight", "running_var")
                )
                weight *= (gamma / np.sqrt(variance + spec.norm.eps)).reshape(-1, *(1,) * (weight.ndim - 1))
            folded[name] = weight
    return folded


def _norms(spec: ArchSpec) -> Set[str]:
    """The scales of all norms, by their tensors' names."""
    return {
        f"{at if layer.kind == 'norm' else _norm_of(at, on_vector=layer.on == 'vector')}.weight"
        for at, layer, _, _ in wiring(spec)
        if layer.norm
    }


def _norm_of(at: str, *, on_vector: bool) -> str:
    return "head.norm" if on_vector else f"{at}.norm"
