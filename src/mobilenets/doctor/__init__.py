"""What is wrong with a model file, slow in it, or easily used wrongly, with evidence and remedies. No torch."""

from .doctor import doctor
from .feeding import NORMS, Norm
from .records import Checkup, Fact, Fed, Feeding, Finding, Order, Problem, Shifted, Weight
from .rules import RULES, findings_of
from .seen import Seen
from .text import checkup_text

__all__ = [
    "NORMS",
    "RULES",
    "Checkup",
    "Fact",
    "Fed",
    "Feeding",
    "Finding",
    "Norm",
    "Order",
    "Problem",
    "Seen",
    "Shifted",
    "Weight",
    "checkup_text",
    "doctor",
    "findings_of",
]
