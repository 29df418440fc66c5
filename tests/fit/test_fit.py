"""The whole line on small real data, and what happens when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mobilenets.bundle import read_bundle
from mobilenets.data import open_folder
from mobilenets.errors import BudgetError, UsageError
from mobilenets.fit import Budget, FitReport, fit
from mobilenets.records import read_record
from mobilenets.runtime import open_artifact, predict, read_artifact

SMALL = {"families": ("mobilenet_v2", "mobilenet_v3_small"), "alphas": (0.1, 0.25), "seconds": 20.0}

pytestmark = pytest.mark.usefixtures("short_timings")


def test_a_fit_delivers_a_model_within_the_budget_with_proof(photos: Path, tmp_path: Path) -> None:
    budget = Budget(latency_ms=50.0, threads=1)
    report = fit(open_folder(photos), budget, out=tmp_path, command="mobilenets fit", **SMALL)
    first = report.delivered[0]
    assert first.latency.high_ms <= 50.0
    assert all(gate.passed for each in report.delivered for gate in each.gates)
    assert first.accuracy.split == "test"
    delivered, _ = read_artifact(tmp_path / first.path)
    assert delivered.labels == ("dark", "light")
    assert delivered.spec_name == report.chosen
    (said,) = predict(open_artifact(tmp_path / first.path), [photos / "dark" / "000.png"])
    assert said.error is None
    assert read_bundle(tmp_path / "bundle").labels == ("dark", "light")
    assert read_record(tmp_path / "report.json", FitReport, what="report") == report
    page = (tmp_path / "report.html").read_text()
    assert report.chosen in page
    fates = {candidate.status for candidate in report.candidates}
    assert "chosen" in fates
    again = fit(open_folder(photos), budget, out=tmp_path, command="mobilenets fit", **SMALL)
    assert again == report


@pytest.mark.slow  # half a minute; test_elastic.py and the fit above are for every day
def test_an_elastic_fit_trains_once_and_delivers_the_best_slice(photos: Path, tmp_path: Path) -> None:
    budget = Budget(mult_adds_m=2.0, threads=1)
    choice = {"families": ("mobilenet_v2",), "alphas": (0.1, 0.2), "resolutions": (16, 12), "seconds": 10.0}
    report = fit(open_folder(photos), budget, out=tmp_path, elastic=True, **choice)
    tried = {candidate.name: candidate for candidate in report.candidates if candidate.rounds}
    assert {(c.alpha, c.resolution) for c in tried.values()} == {(0.1, 16), (0.2, 12)}
    assert len({c.rounds[0].seconds for c in tried.values()}) == 1  # one training for all
    assert report.chosen in tried
    assert tried[report.chosen].rounds[0].top1 == max(c.rounds[0].top1 for c in tried.values())
    steps = [step["step"] for step in read_bundle(tmp_path / "bundle").history]
    assert steps == ["train", "slice", "train"]
    # Of what the file says of images that chose nothing; how good that is after some seconds is the machine's affair.
    test = open_folder(photos).splits["test"]
    said = predict(open_artifact(tmp_path / report.delivered[0].path), [photos / path for path in test.paths])
    right = [one.top[0].label == path.split("/")[0] for one, path in zip(said, test.paths, strict=True)]
    assert report.delivered[0].accuracy.top1 == pytest.approx(np.mean(right))
    with pytest.raises(UsageError, match="another fit"):
        fit(open_folder(photos), budget, out=tmp_path, **choice)


def test_a_budget_nobody_keeps_trains_nothing_and_says_what_it_would_take(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="--mult-adds-m") as caught:
        fit(open_folder(photos), Budget(mult_adds_m=0.001), out=tmp_path, **SMALL)
    assert "nearest" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_another_fit_in_the_same_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        fit(open_folder(photos), Budget(mult_adds_m=0.001), out=tmp_path, **SMALL)
    with pytest.raises(UsageError, match="another fit"):
        fit(open_folder(photos), Budget(mult_adds_m=0.002), out=tmp_path, **SMALL)


def _command(photos: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "mobilenets", "fit", str(photos), "--latency-ms", "50", "--threads", "1"),
        *("--time", "25s", "--families", "mobilenet_v2", "--alphas", "0.1,0.25", "-o", str(out)),
    ]


def _whole(root: Path) -> None:
    """Nothing under `root` is half-written: what is there can be read and matches its digest."""
    for file in root.rglob("*.json"):
        if ".part" not in str(file):
            json.loads(file.read_text())
    for file in root.rglob("artifact.json"):
        if ".part" not in str(file):
            open_artifact(file.parent)
    for file in root.rglob("bundle.json"):
        if ".part" not in str(file) and ".old" not in str(file):
            read_bundle(file.parent)


@pytest.mark.slow
def test_a_fit_killed_five_times_ends_well_and_never_leaves_half_a_file(photos: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    environment = {**os.environ, "MOBILENETS_CACHE": str(cache)}
    rng = np.random.default_rng(0)
    kills = 0
    for moment in (2.0, 5.0, 9.0, 13.0, 16.0):
        process = subprocess.Popen(
            _command(photos, out), env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            process.wait(timeout=moment + rng.uniform(0, 2))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        time.sleep(0.2)
        _whole(tmp_path)
    done = subprocess.run(_command(photos, out), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kills >= 3
    report = read_record(out / "report.json", FitReport, what="report")
    assert report.delivered
    _whole(tmp_path)
