from __future__ import annotations

import csv
import io

import msgspec

from mobilenets.bench import to_csv, to_text
from mobilenets.records import Environment, Report, ReportRow

ENVIRONMENT = Environment(
    cpu="a processor", cores=2, memory_gb=8.0, os="Linux", python="3.11", versions={}, date="2026-01-01T00:00:00+00:00"
)
VALUES = {
    "latency_ms": 4.0,
    "latency_ms_low": 3.5,
    "latency_ms_high": 4.5,
    "latency_ms_p95": 6.25,
    "images_per_second": 250.0,
    "size_mb": 14.0,
    "parameters": 3_504_872.0,
    "mult_adds": 300_774_272.0,
    "resolution": 224.0,
}


def make_report() -> Report:
    rows = [ReportRow(what=what, metric=m, value=v, n=60) for what in ("a", "b, c") for m, v in VALUES.items()]
    ratio = {"latency_ratio": 1.0, "latency_ratio_low": 0.95, "latency_ratio_high": 1.05}
    rows += [ReportRow(what="b, c / a", metric=m, value=v, n=6) for m, v in ratio.items()]
    protocol = {
        "engines": {"a": "onnxruntime 1.31.1", "b, c": "openvino 2026.4.1"},
        "timed": "answers; and how",
        "threads": 2,
        "batch_size": 1,
        "rounds": 6,
    }
    return Report(title="Latency", rows=tuple(rows), environment=ENVIRONMENT, protocol=protocol)


def test_csv_begins_with_the_columns_of_timm() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(make_report()))))
    assert [row["model"] for row in rows] == ["a", "b, c"]
    assert list(rows[0])[:7] == [
        "model",
        "infer_samples_per_sec",
        "infer_step_time",
        "infer_batch_size",
        "infer_img_size",
        "infer_gmacs",
        "param_count",
    ]
    assert list(rows[0].values())[1:7] == ["250.0", "4.0", "1", "224", "0.3008", "3.5049"]


def test_text_is_aligned_and_names_the_conditions() -> None:
    lines = to_text(make_report()).splitlines()
    assert len({len(line) for line in lines[:3]}) == 1
    assert "3.50 to 4.50" in lines[1]
    assert lines[3] == "b, c / a = 1.000 (0.950 to 1.050), 6 rounds side by side"
    assert "answers; 2 thread(s), batch 1" in lines[4]
    assert "onnxruntime 1.31.1" in lines[1]
    assert "openvino 2026.4.1" in lines[2]
    assert "a processor" in lines[4]


def test_what_is_not_known_of_a_peer_is_left_empty() -> None:
    report = make_report()
    unknown = ("size_mb", "mult_adds")
    rows = tuple(row for row in report.rows if row.what != "a" or row.metric not in unknown)
    report = msgspec.structs.replace(report, rows=rows)
    first, second = csv.DictReader(io.StringIO(to_csv(report)))
    assert (first["size_mb"], first["infer_gmacs"], first["engine"]) == ("", "", "onnxruntime 1.31.1")
    assert second["size_mb"] == "14.0"
    assert to_text(report).splitlines()[1].split()[-3:] == ["-", "3.50", "-"]
