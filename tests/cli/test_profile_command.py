from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilenets.profiling import Bandwidth, Gemm, Peaks, Profile
from mobilenets.records import from_json

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--threads", "1", "--seconds", "0.05")


@pytest.fixture(autouse=True)
def _peaks_from_a_drawer(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Peaks(
        threads=1,
        gemm=(Gemm(engine="onnxruntime", precision="fp32", mult_adds_per_second=1e10, edge=8, runs=3),),
        bandwidth=(Bandwidth(working_set_bytes=1 << 20, bytes_per_second=1e10, runs=3),),
    )
    monkeypatch.setattr("mobilenets.profiling.by_row.measure_peaks", lambda **_: known)


def test_an_artifact_and_its_bundle_have_the_same_rows(artifact: Path, trained: Path, run: Run) -> None:
    parts = []
    for target in (artifact, trained / "best"):
        code, out, _ = run("profile", target, *QUICK, "--json")
        assert code == 0
        found = from_json(json.loads(out), Profile, what="output")
        assert found.name == str(target)
        parts.append({part.part: part.mult_adds for part in found.parts})
    assert parts[0] == parts[1]
    assert {"rows.0", "rows.1", "rows.2", "head", "input", "outside"} == set(parts[0])


def test_the_table_has_the_whole_and_the_reasons(artifact: Path, run: Run) -> None:
    code, out, _ = run("profile", artifact, *QUICK)
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split()[0] == "part"
    assert any(line.startswith("sum") and "100.0" in line for line in lines)
    assert "between the operators" in out
    assert "peaks with 1 thread(s)" in out


def test_a_name_is_a_network_too(run: Run) -> None:
    code, out, _ = run("profile", "mobilenet_v1_0.25_32", *QUICK)
    assert code == 0
    assert "separable" in out


def test_engines_that_tell_nothing_and_names_of_nothing_are_bad_use(artifact: Path, run: Run) -> None:
    for arguments in ((artifact, "--engine", "litert"), ("mobilenet_v9",), (artifact, "--engine", "onx")):
        code, _, err = run("profile", *arguments, *QUICK)
        assert code == 2
        assert err.startswith("error: ")
