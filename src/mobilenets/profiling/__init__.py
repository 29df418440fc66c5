"""Where the time of a network goes, and what this machine could do. No torch.

`profile` is not the name of this package, for Python has a module of that name.
"""

from .by_row import profile, profile_of
from .peaks import measure_peaks
from .records import Bandwidth, Gemm, Operators, OperatorTime, Part, Peaks, Profile
from .roofline import roofline_text, with_roofline
from .table import table_of
from .text import peaks_text, to_text

__all__ = [
    "Bandwidth",
    "Gemm",
    "OperatorTime",
    "Operators",
    "Part",
    "Peaks",
    "Profile",
    "measure_peaks",
    "peaks_text",
    "profile",
    "profile_of",
    "roofline_text",
    "table_of",
    "to_text",
    "with_roofline",
]
