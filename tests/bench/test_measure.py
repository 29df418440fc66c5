from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilenets.bench import Entry, bench, interval_of_median, measure, measure_all
from mobilenets.errors import UsageError
from mobilenets.runtime import is_installed


def test_a_latency_is_ordered_and_carries_its_conditions(tiny_artifact: Path) -> None:
    found = measure(tiny_artifact, threads=1, seconds=0.2, batch_size=2)
    assert 0 < found.min_ms <= found.low_ms <= found.median_ms <= found.high_ms
    assert found.median_ms <= found.p95_ms
    assert found.rounds >= 6
    assert found.n == found.rounds * found.runs_per_round
    assert (found.path, found.threads, found.batch_size) == (str(tiny_artifact), 1, 2)
    assert found.engine == "onnxruntime"
    assert found.images_per_second == pytest.approx(2000 / found.median_ms)


def test_artifacts_measured_together_share_their_rounds(tiny_artifact: Path) -> None:
    first, second = measure_all([tiny_artifact, tiny_artifact], threads=1, seconds=0.2)
    assert first.rounds == second.rounds


def test_a_report_has_every_row_with_its_n_and_the_protocol(tiny_artifact: Path) -> None:
    report = bench([tiny_artifact, tiny_artifact], threads=1, seconds=0.2)
    one, two = str(tiny_artifact), f"{tiny_artifact} (2)"
    for what in (one, two):
        low, value, high = (report.value(what, f"latency_ms{end}") for end in ("_low", "", "_high"))
        assert low <= value <= high
        assert report.value(what, "parameters") == 9
        assert report.value(what, "resolution") == 8
    ratio = f"{two} / {one}"
    assert report.value(ratio, "latency_ratio_low") <= report.value(ratio, "latency_ratio")
    assert report.protocol["threads"] == 1
    assert report.protocol["process_per_artifact"] is True
    assert set(report.protocol["runs_per_round"]) == {one, two}
    assert [name.split()[0] for name in report.protocol["engines"].values()] == ["onnxruntime"] * 2
    spread = [row.spread for row in report.rows if row.metric == "latency_ms"]
    assert all(value is not None for value in spread)


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
def test_engines_of_one_artifact_are_compared_under_names_of_their_own(tiny_artifact: Path) -> None:
    path = str(tiny_artifact)
    entries = [Entry(path=path, engine=name) for name in ("onnxruntime", "openvino")]
    report = bench(entries, threads=1, seconds=0.1)
    assert report.value(f"{path}@openvino / {path}@onnxruntime", "latency_ratio") > 0
    assert [version.split()[0] for version in report.protocol["engines"].values()] == ["onnxruntime", "openvino"]


def test_from_file_to_label_takes_longer_than_the_answer_and_the_protocol_says_so(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"{k}.jpg" for k in range(3)]
    for k, file in enumerate(files):
        Image.new("RGB", (640, 480), (80 * k, 0, 0)).save(file)
    (answer,) = measure_all([tiny_artifact], threads=1, seconds=0.1)
    (whole,) = measure_all([tiny_artifact], threads=1, seconds=0.1, images=files)
    assert whole.min_ms > 2 * answer.min_ms
    report = bench([tiny_artifact], threads=1, seconds=0.1, images=files)
    assert report.protocol["input"] == "3 image files in turn"
    assert "decode" in report.protocol["timed"]


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        ({"paths": []}, "no artifacts"),
        ({"threads": 0}, "threads is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": math.nan}, "seconds is nan"),
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, object], claim: str) -> None:
    with pytest.raises(UsageError, match=claim):
        measure_all(**{"paths": [Path("a")], **wrong})  # type: ignore[arg-type]


def test_the_interval_of_a_median_takes_the_published_ranks() -> None:
    # W. J. Conover, "Practical Nonparametric Statistics", 3rd ed., 1999, section 3.2: the sign test's ranks.
    ranks = {6: (1, 6), 8: (1, 8), 9: (2, 8), 10: (2, 9), 15: (4, 12), 20: (6, 15), 25: (8, 18)}
    for n, wanted in ranks.items():
        assert interval_of_median(list(range(n, 0, -1))) == wanted


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=60))
def test_the_interval_of_a_median_lies_among_the_values(values: list[float]) -> None:
    low, high = interval_of_median(values)
    assert min(values) <= low <= high <= max(values)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = interval_of_median([draw.expovariate(1) for _ in range(20)])
        hits += low <= math.log(2) <= high  # the median of that distribution
    assert hits / 2000 >= 0.94
