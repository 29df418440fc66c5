"""How fast artifacts answer on this machine, measured so that two of them can be compared. No torch."""

from .choose import Choice, fastest_engine
from .measure import Latency, interval_of_median, measure, measure_all
from .pool import Entry, OpenedEngine, Worker
from .report import bench, report_of
from .table import to_csv, to_text

__all__ = [
    "Choice",
    "Entry",
    "Latency",
    "OpenedEngine",
    "Worker",
    "bench",
    "fastest_engine",
    "interval_of_median",
    "measure",
    "measure_all",
    "report_of",
    "to_csv",
    "to_text",
]
