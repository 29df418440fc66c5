"""A fit for another device: the kit that goes there, the latencies that come back, and whose latencies then count."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from making import settled_bundle
from mobilenets.arch import find
from mobilenets.bench import LATENCIES_NAME, DeviceLatencies, Latency, kit, measure_kit
from mobilenets.data import Dataset, open_folder
from mobilenets.errors import BudgetError, UsageError
from mobilenets.fit import Budget, DeviceTable, FitReport, fit, options, summary_text, write_kit
from mobilenets.fit.deliver import _slower_left_out
from mobilenets.records import read_record, to_json
from mobilenets.runtime import read_artifact

CHOICE = {"families": ("mobilenet_v2", "mobilenet_v3_small"), "alphas": (0.1, 0.25), "resolutions": (16,)}
BOARD = "ARM Cortex-A72"

pytestmark = pytest.mark.usefixtures("short_timings")


@pytest.fixture(scope="module")
def dataset(photos: Path) -> Dataset:
    return open_folder(photos)


@pytest.fixture(scope="module")
def timed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit, timed here."""
    folder = tmp_path_factory.mktemp("kit") / "kit"
    assert write_kit(dataset, Budget(size_mb=100.0), folder=folder, **CHOICE) == 8  # two precisions of four networks
    measure_kit(folder, threads=1, seconds=0.1)
    return folder


def as_a_board_told(timed: Path, out: Path, times: dict[tuple[str, str], float]) -> Path:
    """The latencies of `timed`, as if a board had measured these milliseconds; what is not in `times` was not timed."""
    told = read_record(timed / LATENCIES_NAME, DeviceLatencies, what="latencies")
    entries = []
    for entry in told.entries:
        if (ms := times.get((entry.spec_name, entry.precision))) is not None:
            latency = msgspec.structs.replace(entry.latency, median_ms=ms, low_ms=0.9 * ms, high_ms=1.1 * ms)
            entries.append(msgspec.structs.replace(entry, latency=latency))
    board = msgspec.structs.replace(told.environment, cpu=BOARD, cores=4)
    made = msgspec.structs.replace(told, environment=board, entries=tuple(entries))
    out.write_text(json.dumps(to_json(made)))
    return out


def names_of(timed: Path) -> list[str]:
    return sorted({read_artifact(path)[0].spec_name for path in timed.iterdir() if path.is_dir()})


def test_a_kit_holds_every_network_of_the_fit_in_both_precisions(dataset: Dataset, timed: Path) -> None:
    made = {(r.spec_digest, r.precision) for p in timed.iterdir() if p.is_dir() for r in [read_artifact(p)[0]]}
    weighed = options(classes=2, native_side=16, precisions=("fp32", "int8"), **CHOICE)
    assert made == {(option.spec.digest, option.precision) for option in weighed}
    known = DeviceTable(timed / LATENCIES_NAME).estimate(weighed)
    assert set(known) == set(weighed)
    assert all(estimate.how == "measured" for estimate in known.values())


def test_the_devices_latencies_decide_and_are_reported(dataset: Dataset, timed: Path, tmp_path: Path) -> None:
    slow, *others = names_of(timed)
    times = {(name, "fp32"): 500.0 for name in others} | {(slow, "fp32"): 90.0, (slow, "int8"): 200.0}
    table = DeviceTable(as_a_board_told(timed, tmp_path / "board.json", times))
    budget = Budget(latency_ms=100.0, threads=1)
    report = fit(dataset, budget, out=tmp_path / "fit", seconds=12.0, latencies=table, **CHOICE)
    assert report.chosen == slow  # 500 ms elsewhere keep the budget here by far
    assert report.device is not None
    assert report.device.cpu == BOARD
    assert {candidate.status for candidate in report.candidates if candidate.name != slow} == {"too slow"}
    (only,) = report.delivered
    assert (only.precision, only.latency.median_ms) == ("fp32", 90.0)
    assert "int8" in " ".join(report.not_delivered)  # by its gate after so little training, or else by the device
    assert f"on {BOARD}" in " ".join(summary_text(report, folder=tmp_path).split())
    assert BOARD in (tmp_path / "fit" / "report.html").read_text()
    assert read_record(tmp_path / "fit" / "report.json", FitReport, what="report") == report
    with pytest.raises(UsageError, match="another fit"):
        fit(dataset, budget, out=tmp_path / "fit", seconds=12.0, **CHOICE)


def test_what_the_device_did_not_time_cannot_be_chosen(dataset: Dataset, timed: Path, tmp_path: Path) -> None:
    first, *_ = names_of(timed)
    table = DeviceTable(as_a_board_told(timed, tmp_path / "board.json", {(first, "fp32"): 500.0}))
    with pytest.raises(BudgetError, match="--latency-ms 550"):
        fit(dataset, Budget(latency_ms=100.0, threads=1), out=tmp_path / "fit", seconds=5.0, latencies=table, **CHOICE)
    state = json.loads((tmp_path / "fit" / "state.json").read_text())
    assert {c["status"] for c in state["candidates"]} == {"too slow", "not measured"}


def test_a_kit_of_other_networks_is_told_as_such(dataset: Dataset, timed: Path, tmp_path: Path) -> None:
    table, other = DeviceTable(timed / LATENCIES_NAME), {**CHOICE, "alphas": (0.35,)}
    with pytest.raises(BudgetError, match="timed none of 2 networks"):
        fit(dataset, Budget(latency_ms=100.0, threads=1), out=tmp_path, seconds=5.0, latencies=table, **other)


def test_too_slow_with_weights_is_told_of_them_and_nobody_else_is_tried(dataset: Dataset, tmp_path: Path) -> None:
    settled_bundle(find("mobilenet_v2_0.25_96")).write(tmp_path / "start")
    weights, folder = [str(tmp_path / "start")], tmp_path / "kit"
    write_kit(dataset, Budget(size_mb=100.0), folder=folder, resolutions=(32,), weights=weights)
    measure_kit(folder, threads=1, seconds=0.1)
    (name,) = names_of(folder)
    table = DeviceTable(as_a_board_told(folder, tmp_path / "board.json", {(name, "fp32"): 500.0}))
    budget, out = Budget(latency_ms=100.0, threads=1), tmp_path / "fit"
    with pytest.raises(BudgetError, match=r"--latency-ms 550"):
        fit(dataset, budget, out=out, seconds=5.0, latencies=table, resolutions=(32,), weights=weights)


def test_an_int8_file_that_is_slower_on_the_device_is_left_out(timed: Path) -> None:
    told = read_record(timed / LATENCIES_NAME, DeviceLatencies, what="latencies")
    fp32 = told.entries[0].latency
    slower, faster = (msgspec.structs.replace(fp32, median_ms=k * fp32.median_ms) for k in (2.0, 0.5))
    assert set(_slower_left_out({"fp32": fp32, "int8": slower})) == {"fp32"}
    assert set(_slower_left_out({"fp32": fp32, "int8": faster})) == {"fp32", "int8"}
    assert set(_slower_left_out({"int8": slower})) == {"int8"}


def test_a_kit_that_was_stopped_goes_on_where_it_was(
    timed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_record(timed / LATENCIES_NAME, DeviceLatencies, what="latencies")
    file = timed / LATENCIES_NAME
    before = file.read_text()
    asked: list[str] = []

    def measure(paths: list[Path], **_: object) -> tuple[Latency, ...]:
        asked.extend(path.name for path in paths)
        return tuple(whole.entries[0].latency for _ in paths)

    monkeypatch.setattr(kit, "measure_all", measure)
    try:
        file.write_text(json.dumps(to_json(msgspec.structs.replace(whole, entries=whole.entries[:-2]))))
        again = measure_kit(timed, threads=1)
        assert len(asked) == 2
        assert set(again.by_name) == set(whole.by_name)
        assert measure_kit(timed, threads=1) == again
        assert len(asked) == 2
        with pytest.raises(UsageError, match="with 1 threads"):
            measure_kit(timed, threads=2)
        other = msgspec.structs.replace(whole.environment, cpu=BOARD)
        file.write_text(json.dumps(to_json(msgspec.structs.replace(whole, environment=other))))
        with pytest.raises(UsageError, match=BOARD):
            measure_kit(timed, threads=1)
    finally:
        file.write_text(before)


def test_a_folder_without_artifacts_is_no_kit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--kit"):
        measure_kit(tmp_path)


def test_a_kit_needs_a_new_folder_and_a_network_that_keeps_the_budget(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there already"):
        write_kit(dataset, Budget(size_mb=1.0), folder=tmp_path)
    with pytest.raises(BudgetError):
        write_kit(dataset, Budget(mult_adds_m=0.001), folder=tmp_path / "kit", **CHOICE)
    assert not (tmp_path / "kit").exists()


def test_a_network_of_the_same_name_with_another_table_was_not_timed(timed: Path) -> None:
    table = DeviceTable(timed / LATENCIES_NAME)
    (option,) = options(classes=2, native_side=16, families=("mobilenet_v2",), alphas=(0.1,), resolutions=(16,))
    assert table.estimate([option])
    other = msgspec.structs.replace(option.spec, padding="same")
    assert table.estimate([replace(option, spec=other)]) == {}
