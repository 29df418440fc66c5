"""Smaller networks from trained ones: Bundle -> Bundle."""

from .allocate import Allocation, Limits, allocate
from .cut import Kept, cut, narrowed, selections
from .gradual import Pruned, Step, prune_run
from .importance import Importance, Scores, weight_scores
from .prune import Budget, Measure, Target, costs_of, prune
from .taylor import taylor_scores
from .widths import Place, Width, widths

__all__ = [
    "Allocation",
    "Budget",
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
    "narrowed",
    "prune",
    "prune_run",
    "selections",
    "taylor_scores",
    "weight_scores",
    "widths",
]
