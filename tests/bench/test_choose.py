from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mobilenets.bench import choose, fastest_engine
from mobilenets.bench.measure import measure_all
from mobilenets.errors import CheckError
from mobilenets.runtime import is_installed

pytestmark = pytest.mark.skipif(not is_installed("openvino"), reason="openvino, a second engine, is not installed")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))


def test_the_fastest_engine_is_measured_once_and_remembered(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = fastest_engine(tiny_artifact, threads=1, seconds=0.1)
    assert set(chosen.latency_ms) == {"onnxruntime", "openvino"}
    assert chosen.latency_ms[chosen.engine] == min(chosen.latency_ms.values())

    def measured_again(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(choose, "_measured", measured_again)
    elsewhere = shutil.copytree(tiny_artifact, tmp_path / "elsewhere")
    assert fastest_engine(elsewhere, threads=1) == chosen
    with pytest.raises(AssertionError, match="measured again"):
        fastest_engine(tiny_artifact, threads=2)
    monkeypatch.setattr(choose.metadata, "version", lambda _: "another")
    with pytest.raises(AssertionError, match="measured again"):
        fastest_engine(tiny_artifact, threads=1)


def test_a_memory_that_is_damaged_is_measured_anew(tiny_artifact: Path, tmp_path: Path) -> None:
    first = fastest_engine(tiny_artifact, threads=1, seconds=0.1)
    (memory,) = (tmp_path / "cache" / "engines").iterdir()
    memory.write_text("{}")
    again = fastest_engine(tiny_artifact, threads=1, seconds=0.1)
    assert set(again.latency_ms) == set(first.latency_ms)


def test_an_engine_that_answers_differently_is_left_out_however_fast(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = choose.Worker.answer

    def answer(worker: choose.Worker) -> list[list[float]]:
        logits = np.asarray(real(worker))
        return (logits + 0.1 * (worker.entry.engine == "openvino")).tolist()

    monkeypatch.setattr(choose.Worker, "answer", answer)
    chosen = fastest_engine(tiny_artifact, threads=1, seconds=0.1)
    assert chosen.engine == "onnxruntime"
    assert "standard deviations away from onnxruntime" in chosen.refused["openvino"]


def test_when_no_engine_runs_it_each_reason_is_told(tiny: ModuleType, tmp_path: Path) -> None:
    broken = tiny.write_artifact(tmp_path / "broken", b"not a model", labels=("a", "b"))
    with pytest.raises(CheckError, match=r"onnxruntime: .*cannot be opened.*openvino: .*cannot be opened"):
        fastest_engine(broken, threads=1, seconds=0.1)


def test_measuring_is_that_of_bench() -> None:
    assert choose.measure_all is measure_all
