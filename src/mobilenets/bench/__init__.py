"""How fast artifacts answer on this machine, measured so that two of them can be compared. No torch."""

from .choose import Choice, fastest_engine
from .energy import Meter, find_meter
from .kit import LATENCIES_NAME, DeviceLatencies, KitLatency, a_few_at_a_time, measure_kit
from .measure import Latency, interval_of_median, measure, measure_all, paired_ratio
from .plot import PictureFormat, draw, picture_format
from .pool import Entry, OpenedEngine, Timed, Worker
from .report import bench, report_of
from .table import to_csv, to_text

__all__ = [
    "LATENCIES_NAME",
    "Choice",
    "DeviceLatencies",
    "Entry",
    "KitLatency",
    "Latency",
    "Meter",
    "OpenedEngine",
    "PictureFormat",
    "Timed",
    "Worker",
    "a_few_at_a_time",
    "bench",
    "draw",
    "fastest_engine",
    "find_meter",
    "interval_of_median",
    "measure",
    "measure_all",
    "measure_kit",
    "paired_ratio",
    "picture_format",
    "report_of",
    "to_csv",
    "to_text",
]
