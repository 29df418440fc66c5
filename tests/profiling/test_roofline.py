"""How near a network comes to the machine's peaks is told beside its latency."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mobilenets.arch import compose, cost
from mobilenets.bench import Entry, bench
from mobilenets.cli.bench import command
from mobilenets.errors import UsageError
from mobilenets.export import write_ungated
from mobilenets.fit.latency import untrained_bundle
from mobilenets.profiling import Bandwidth, Gemm, Peaks, roofline_text, with_roofline
from mobilenets.records import Report, from_json
from mobilenets.runtime import is_installed

SPEC = compose("mobilenet_v3_small", alpha=0.5, resolution=32, classes=4)
# Memory that is never in the way, so that the roofline is the products alone.
PEAKS = Peaks(
    threads=1,
    gemm=(
        Gemm(engine="onnxruntime", precision="fp32", mult_adds_per_second=1e9, edge=64, runs=3),
        Gemm(engine="onnxruntime", precision="int8", mult_adds_per_second=4e9, edge=64, runs=3),
    ),
    bandwidth=(Bandwidth(working_set_bytes=1 << 30, bytes_per_second=1e15, runs=3),),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    bundle = untrained_bundle(SPEC)
    write_ungated(bundle, root / "fp32")
    write_ungated(bundle, root / "int8", precision="int8", calibration=noise)
    if is_installed("litert"):
        write_ungated(bundle, root / "tflite", format="tflite")
    return {path.name: path for path in root.iterdir()}


def test_the_fraction_is_the_least_time_over_the_measured_one(made: dict[str, Path]) -> None:
    entries = [Entry(path=str(made[name])) for name in ("fp32", "int8")]
    report = with_roofline(bench(entries, threads=1, seconds=0.1), entries, seconds=0.05, peaks=PEAKS)
    for entry, rate in zip(entries, (1e9, 4e9), strict=True):
        least = report.value(entry.name, "roofline_ms")
        assert least == pytest.approx(1000 * cost(SPEC).mult_adds / rate)
        fraction = report.value(entry.name, "roofline_fraction")
        assert fraction == pytest.approx(least / report.value(entry.name, "latency_ms"))
        assert report.value(f"{entry.name} rows.0", "part_ms") > 0
        told = report.protocol["roofline"]["networks"][entry.name]
        lost = [part["lost_ms"] for part in told["held_back_by"]]
        assert lost == sorted(lost, reverse=True)
        assert all(part["reason"] for part in told["held_back_by"])
    assert report.value("this machine", "gemm_int8_mult_adds_per_second") == 4e9
    assert f"{entries[0].name}: the peaks explain" in roofline_text(report)
    assert "ms more than its least" in roofline_text(report)


def test_an_engine_without_a_profiler_has_a_fraction_and_no_rows(made: dict[str, Path]) -> None:
    if "tflite" not in made:
        pytest.skip("litert is not installed")
    entries = [Entry(path=str(made["tflite"]))]
    report = with_roofline(bench(entries, threads=1, seconds=0.1), entries, seconds=0.05, peaks=PEAKS)
    assert report.value(entries[0].name, "roofline_fraction") > 0
    assert "is not known: " in roofline_text(report)
    assert "litert tells nothing of its operators" in roofline_text(report)


def test_peers_are_passed_over_and_other_entries_are_refused(made: dict[str, Path]) -> None:
    entries = [Entry(path=str(made["fp32"]))]
    report = bench(entries, threads=1, seconds=0.05)
    peer = [Entry(path="{}", label=entries[0].name, worker="mobilenets.peers.worker")]
    assert with_roofline(report, peer, peaks=PEAKS).protocol["roofline"]["networks"] == {}
    with pytest.raises(UsageError, match="as many"):
        with_roofline(report, entries * 2, peaks=PEAKS)


def test_bench_tells_the_roofline_and_draws_it(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenets.profiling.roofline.measure_peaks", lambda **_: PEAKS)
    arguments = [str(made["fp32"]), "--threads", "1", "--seconds", "0.1", "--roofline"]
    plot = tmp_path / "speed.svg"
    done = CliRunner().invoke(command, [*arguments, "--json", "--plot", str(plot)], catch_exceptions=False)
    report = from_json(json.loads(done.stdout), Report, what="output")
    assert report.value(str(made["fp32"]), "roofline_ms") > 0
    assert b"<svg" in plot.read_bytes()
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "peaks with 1 thread(s): matrix products" in done.stdout
    assert "energy: " in done.stdout or "joules per image" in done.stdout


def test_what_cannot_be_drawn_or_compared_is_refused_before_anything_is_timed(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr("mobilenets.bench.bench", timed)
    wrong = CliRunner().invoke(command, [str(made["fp32"]), "--plot", str(tmp_path / "speed.pdf")])
    assert isinstance(wrong.exception, UsageError)
    both = CliRunner().invoke(command, [str(made["fp32"]), "--roofline", "--end-to-end", str(tmp_path)])
    assert both.exit_code == 2
