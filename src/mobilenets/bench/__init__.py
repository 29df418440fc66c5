"""How fast artifacts answer on this machine, measured so that two of them can be compared. No torch."""

from .measure import Latency, interval_of_median, measure, measure_all
from .pool import OpenedEngine, Worker
from .report import bench, report_of
from .table import to_csv, to_text

__all__ = [
    "Latency",
    "OpenedEngine",
    "Worker",
    "bench",
    "interval_of_median",
    "measure",
    "measure_all",
    "report_of",
    "to_csv",
    "to_text",
]
