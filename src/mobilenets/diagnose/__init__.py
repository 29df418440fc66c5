"""Why a network is as good as it is: measurements of a bundle on its data, and the likely causes with remedies."""

from .diagnose import diagnose
from .page import page
from .records import Cause, Diagnosis, Finding, Inputs, Measured, RowHealth, TimeSplit
from .rules import findings_of
from .text import diagnosis_text

__all__ = [
    "Cause",
    "Diagnosis",
    "Finding",
    "Inputs",
    "Measured",
    "RowHealth",
    "TimeSplit",
    "diagnose",
    "diagnosis_text",
    "findings_of",
    "page",
]
