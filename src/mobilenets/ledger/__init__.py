"""Compression as an account: every step measured, and taken back where it does not pay."""

from .judge import Gain, Judgement, judge
from .records import Judged, Ledger, Line, Measured, Plan, Ratio, StepName, Verdict
from .run import Pruning, compress
from .steps import STEPS
from .table import to_markdown

__all__ = [
    "STEPS",
    "Gain",
    "Judged",
    "Judgement",
    "Ledger",
    "Line",
    "Measured",
    "Plan",
    "Pruning",
    "Ratio",
    "StepName",
    "Verdict",
    "compress",
    "judge",
    "to_markdown",
]
