"""The main job: the best network within a budget, with proof."""

from .candidates import ALPHAS, FAMILIES, Option, options
from .device import DeviceTable, write_kit
from .fit import fit
from .latency import LatencyTable
from .records import Budget, Candidate, FitReport
from .summary import summary_text

__all__ = [
    "ALPHAS",
    "FAMILIES",
    "Budget",
    "Candidate",
    "DeviceTable",
    "FitReport",
    "LatencyTable",
    "Option",
    "fit",
    "options",
    "summary_text",
    "write_kit",
]
