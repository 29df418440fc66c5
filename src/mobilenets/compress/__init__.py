"""Smaller networks from trained ones: Bundle -> Bundle."""

from .allocate import Allocation, Limits, allocate
from .cut import Kept, cut, narrowed, selections
from .elastic import ElasticOutcome, measure_grid, policy_for, train_elastic
from .front import GridPoint
from .gradual import Pruned, Step, prune_run
from .importance import Importance, Scores, weight_scores
from .prune import Budget, Measure, Target, costs_of, prune
from .slice import slice_bundle
from .taylor import taylor_scores
from .widths import Place, Width, widths

__all__ = [
    "Allocation",
    "Budget",
    "ElasticOutcome",
    "GridPoint",
    "Importance",
    "Kept",
    "Limits",
    "Measure",
    "Place",
    "Pruned",
    "Scores",
    "Step",
    "Target",
    "Width",
    "allocate",
    "costs_of",
    "cut",
    "measure_grid",
    "narrowed",
    "policy_for",
    "prune",
    "prune_run",
    "selections",
    "slice_bundle",
    "taylor_scores",
    "train_elastic",
    "weight_scores",
    "widths",
]
