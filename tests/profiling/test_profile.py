"""The time of a network by rows: the parts sum to the whole, whatever the engine calls its operators."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mobilenets.arch import ArchSpec, AttentionRow, BottleneckRow, ClassifierHead, ConvRow, Norm, cost
from mobilenets.errors import FileFormatError, UsageError
from mobilenets.export import write_ungated
from mobilenets.fit.latency import untrained_bundle
from mobilenets.profiling import Bandwidth, Gemm, Operators, OperatorTime, Peaks, profile, profile_of
from mobilenets.profiling.places import part_of, placed
from mobilenets.records import Artifact, Precision
from mobilenets.runtime import is_installed, read_artifact

SPEC = ArchSpec(
    name="tiny",
    paper="none",
    rows=(
        ConvRow(out=8, stride=2, act="hard_swish"),
        BottleneckRow(out=8, expanded=16, squeezed=8, act="hard_swish"),
        BottleneckRow(out=16, expanded=24, stride=2, act="relu"),
        AttentionRow(out=16, heads=2, key_width=8, value_width=8),
        ConvRow(out=24, kernel=1, act="hard_swish"),
    ),
    head=ClassifierHead(classes=3, hidden=16, act="hard_swish"),
    norm=Norm(eps=1e-5, momentum=0.1),
    resolution=16,
)
PEAKS = Peaks(
    threads=1,
    gemm=(
        Gemm(engine="onnxruntime", precision="fp32", mult_adds_per_second=1e9, edge=64, runs=3),
        Gemm(engine="openvino", precision="fp32", mult_adds_per_second=2e9, edge=64, runs=3),
        Gemm(engine="onnxruntime", precision="int8", mult_adds_per_second=4e9, edge=64, runs=3),
    ),
    bandwidth=(
        Bandwidth(working_set_bytes=1000, bytes_per_second=1e9, runs=3),
        Bandwidth(working_set_bytes=1_000_000, bytes_per_second=1e8, runs=3),
    ),
    operator_ms={"onnxruntime": 0.001},
)


def artifact_of(folder: Path, precision: Precision) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    write_ungated(
        untrained_bundle(SPEC), folder, precision=precision, calibration=noise if precision == "int8" else None
    )
    return folder


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_of(tmp_path_factory.mktemp("made") / "fp32", "fp32")


@pytest.fixture(scope="module")
def bytes_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_of(tmp_path_factory.mktemp("made") / "int8", "int8")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_row_ran_and_the_parts_sum_to_the_whole(engine: str, precision: str, floats: Path, bytes_: Path) -> None:
    if not is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    path = floats if precision == "fp32" else bytes_
    found = profile(path, engine=engine, threads=1, seconds=0.05, peaks=PEAKS)
    named = {part.part: part for part in found.parts}
    assert {*named} == {"input", "head", "outside", *(f"rows.{k}" for k in range(len(SPEC.rows)))}
    assert all(part.operators for part in found.parts if part.part.startswith("rows."))
    assert sum(part.ms for part in found.parts) == pytest.approx(found.profiled_ms)
    assert sum(part.share for part in found.parts) == pytest.approx(1.0)
    assert sum(part.mult_adds for part in found.parts) == cost(SPEC).mult_adds
    assert sum(part.operators for part in found.parts) == len(found.operators)
    inside = [part.ms for part in found.parts if part.part != "outside"]
    assert inside == sorted(inside, reverse=True)
    assert [part.part for part in found.parts][len(inside) :] == ["outside"] * (len(found.parts) - len(inside))
    assert all(part.reason for part in found.parts)
    assert (found.engine, found.threads, found.table) == (engine, 1, True)
    assert found.latency_ms > 0
    assert json.loads(msgspec.json.encode(found))["parts"]


def test_nothing_is_left_outside_the_rows_but_conversions_between_two(floats: Path) -> None:
    found = profile(floats, threads=1, seconds=0.05, peaks=PEAKS)
    outside = [operator for operator in found.operators if not operator.part]
    assert {operator.kind for operator in outside} <= {"ReorderInput", "ReorderOutput"}
    assert len(outside) < len(SPEC.rows)


def test_an_artifact_from_before_is_told_by_row_of_the_catalogue_or_by_kind(floats: Path, tmp_path: Path) -> None:
    older = shutil.copytree(floats, tmp_path / "older")
    record = json.loads((older / "artifact.json").read_text())
    del record["table"]
    (older / "artifact.json").write_text(json.dumps(record))
    found = profile(older, threads=1, seconds=0.05, peaks=PEAKS)
    assert not found.table
    assert {"Conv", "Gemm"} <= {part.part for part in found.parts}
    assert sum(part.ms for part in found.parts) == pytest.approx(found.profiled_ms)
    assert found.roofline_ms == 0


def test_a_batch_has_so_many_times_the_products(floats: Path) -> None:
    found = profile(floats, threads=1, batch_size=3, seconds=0.05, peaks=PEAKS)
    assert sum(part.mult_adds for part in found.parts) == 3 * cost(SPEC).mult_adds


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch_size": 0}, {"seconds": 0.0}, {"engine": "onnx"}])
def test_impossible_values_are_refused(wrong: dict[str, object], floats: Path) -> None:
    with pytest.raises(UsageError):
        profile(floats, peaks=PEAKS, **wrong)


def test_a_file_that_was_changed_is_not_run(floats: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(floats, tmp_path / "changed")
    (changed / "model.onnx").write_bytes(b"other")
    with pytest.raises(FileFormatError, match="was changed"):
        profile(changed, threads=1, seconds=0.05, peaks=PEAKS)


def told(*operators: OperatorTime, whole: float) -> Operators:
    return Operators(
        engine="onnxruntime",
        version="1",
        threads=1,
        latency_ms=whole,
        profiled_ms=whole,
        runs=5,
        operators=operators,
    )


def operator(name: str, kind: str, ms: float, **more: object) -> OperatorTime:
    return OperatorTime(name=name, kind=kind, part=part_of([name]), ms=ms, moved_bytes=0, **more)


def reason_of(record: Artifact, *operators: OperatorTime) -> str:
    found = profile_of(told(*operators, whole=100.0), record, name="tiny", batch_size=1, peaks=PEAKS)
    (part,) = [part for part in found.parts if part.part == "rows.2"]
    return part.reason


def test_the_reason_names_what_takes_the_time(floats: Path, bytes_: Path) -> None:
    plain, small = read_artifact(floats)[0], read_artifact(bytes_)[0]
    conv = operator("rows.2.expand", "Conv", 6.0)
    products = sum(entry.mult_adds for entry in cost(SPEC).layers if entry.row == 2)
    at_peak = 1000 * products / 2e9
    assert "conversions between formats: 40 % (ReorderInput)" in reason_of(
        plain, conv, operator("rows.2.reordered", "ReorderInput", 4.0)
    )
    assert "fell back: 100 % in plain kernels" in reason_of(
        plain, operator("rows.2.expand", "Conv", 6.0, fell_back=True)
    )
    assert "float32 in an int8 file: 100 % (Conv)" in reason_of(
        small, operator("rows.2.expand", "Conv", 6.0, numbers="float32")
    )
    assert "float32" not in reason_of(small, operator("rows.2.expand", "QLinearConv", 6.0, numbers="uint8"))
    assert "squeeze-excite: 50 % in 1 operators" in reason_of(plain, conv, operator("rows.2.excite.pool", "Pool", 6.0))
    assert "memory-bound" in reason_of(plain, operator("rows.2.expand", "Conv", at_peak))
    assert "mostly Conv, at " in reason_of(plain, conv)


def test_a_part_at_the_peak_of_products_is_compute_bound(floats: Path) -> None:
    fast_memory = msgspec.structs.replace(
        PEAKS, bandwidth=(Bandwidth(working_set_bytes=1000, bytes_per_second=1e15, runs=3),)
    )
    products = sum(entry.mult_adds for entry in cost(SPEC).layers if entry.row == 2)
    one = operator("rows.2.expand", "Conv", 1000 * products / 2e9 / 0.8)
    found = profile_of(told(one, whole=10.0), read_artifact(floats)[0], name="tiny", batch_size=1, peaks=fast_memory)
    (part,) = [part for part in found.parts if part.part == "rows.2"]
    idle = msgspec.structs.replace(fast_memory, operator_ms={"onnxruntime": 0.4 * part.ms})
    few = told(one, msgspec.structs.replace(one, ms=0.0), whole=10.0)
    slow = msgspec.structs.replace(idle, gemm=(msgspec.structs.replace(PEAKS.gemm[0], mult_adds_per_second=1e15),))
    (small,) = [
        each
        for each in profile_of(few, read_artifact(floats)[0], name="tiny", batch_size=1, peaks=slow).parts
        if each.part == "rows.2"
    ]
    assert small.reason.startswith("overhead: 2 operators of ")
    assert part.reason == "compute-bound: 80 % of the GEMM peak"
    assert part.roofline_ms == pytest.approx(0.8 * part.ms)


def test_what_stands_between_two_rows_is_outside_and_between_two_of_one_row_inside() -> None:
    names = ["rows.1.expand_nchwc", "Reorder", "rows.1.project", "Reorder", "rows.2.expand", "logits"]
    raw = [OperatorTime(name=name, kind="", part=part_of([name]), ms=1, moved_bytes=0) for name in names]
    assert [each.part for each in placed(raw)] == ["rows.1", "rows.1", "rows.1", "", "rows.2", "head"]
    assert part_of(["Subtract_1", "x", "rows.12.conv/WithoutBiases"]) == "rows.12"
    assert part_of(["input.normalised_abcd_acdb_rows.0.conv"]) == "input"
    assert part_of(["header", "rows.x.conv"]) == ""
