"""A report as a picture: that it is one, and that it holds what the report holds."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from mobilenets.bench import draw, picture_format
from mobilenets.errors import UsageError
from mobilenets.records import Environment, Report, ReportRow

pytest.importorskip("matplotlib")
ENVIRONMENT = Environment(
    cpu="a $processor$", cores=2, memory_gb=8.0, os="Linux", python="3.11", versions={}, date="2026-01-01T00:00:00"
)


def make_report(latencies: dict[str, float], *, sizes: dict[str, float]) -> Report:
    rows = []
    for what, ms in latencies.items():
        for metric, value in (("latency_ms", ms), ("latency_ms_low", 0.9 * ms), ("latency_ms_high", 1.2 * ms)):
            rows.append(ReportRow(what=what, metric=metric, value=value, n=6))
    rows += [ReportRow(what=what, metric="size_mb", value=mb, n=1) for what, mb in sizes.items()]
    engines = {what: f"engine {number % 2}" for number, what in enumerate(latencies)}
    protocol = {"engines": engines, "threads": 2, "batch_size": 1}
    return Report(title="Latency", rows=tuple(rows), environment=ENVIRONMENT, protocol=protocol)


def test_an_svg_names_every_artifact_with_its_latency_and_is_the_same_twice() -> None:
    report = make_report({"rose": 4.25, "rose-int8": 1.5, "$ timm_x $": 9.75}, sizes={"rose": 14.0, "rose-int8": 3.6})
    drawn = draw(report, kind="svg")
    text = "".join(ElementTree.fromstring(drawn).itertext())
    for word in ("rose", "rose-int8", "$ timm_x $", "4.25", "1.5", "9.75", "engine 1", "MB of the file", "3.6"):
        assert word in text, word
    assert drawn == draw(report, kind="svg")


def test_a_png_grows_with_the_artifacts_and_needs_no_sizes() -> None:
    heights = []
    for count in (1, 12):
        report = make_report({f"artifact {k}": 1.0 + 10 * k for k in range(count)}, sizes={})
        with Image.open(io.BytesIO(draw(report, kind="png"))) as picture:
            assert picture.format == "PNG"
            heights.append(picture.height)
    assert heights[0] < heights[1]


def test_other_kinds_of_pictures_and_empty_reports_are_refused() -> None:
    assert picture_format(Path("a.SVG")) == "svg"
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        picture_format(Path("a.pdf"))
    with pytest.raises(UsageError, match="without latencies"):
        draw(make_report({}, sizes={}), kind="png")
