from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from making import needs
from mobilenets.export import artifact as exporting
from mobilenets.runtime import DEFAULT_ENGINES, is_installed, open_artifact

Run = Callable[..., tuple[int, str, str]]


def timed(*milliseconds: float) -> Callable[..., list[SimpleNamespace]]:
    """Stands in for the clock: what int8 gains on a small network depends on the machine."""

    def measure_all(paths: Sequence[Path], **_: object) -> list[SimpleNamespace]:
        assert len(paths) == len(milliseconds)
        return [SimpleNamespace(median_ms=value, rounds=10) for value in milliseconds]

    return measure_all


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_gate_is_printed_with_value_and_limit(trained: Path, colours: Path, run: Run) -> None:
    code, out, _ = run("export", trained / "best", "--data", colours)
    assert code == 0
    for gate in open_artifact(Path("runs/export/tiny-fp32")).artifact.gates:
        assert f"{gate.name} {gate.value:.4g}" in out
        assert f"{gate.limit:g} (6 val)" in out
    assert out.splitlines()[-1] == "next: mobilenets bench runs/export/tiny-fp32"


def test_int8_keeps_the_float32_artifact_it_was_measured_against(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(2.0, 1.0))
    arguments = ("export", trained / "best", "--data", colours, "-o", "rose", "--precision", "int8", "--json")
    code, out, _ = run(*arguments)
    assert code == 0
    content = json.loads(out)
    assert (content["artifact"], content["fp32"], content["precision"]) == ("rose", "rose-fp32", "int8")
    speed = content["gates"][-1]
    assert (speed["name"], speed["value"], speed["passed"]) == ("speedup_over_fp32", 2.0, True)
    assert open_artifact(Path("rose")).artifact.precision == "int8"
    before = Path("rose-fp32/artifact.json").stat().st_mtime_ns
    assert run(*arguments)[0] == 0
    assert Path("rose-fp32/artifact.json").stat().st_mtime_ns == before


def test_int8_that_is_slower_exits_with_1_and_there_is_no_artifact(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(1.0, 2.0))
    code, out, err = run("export", trained / "best", "--data", colours, "--precision", "int8")
    assert (code, out) == (1, "")
    assert "speedup_over_fp32 = 0.5" in err
    assert [path.name for path in Path("runs/export").iterdir()] == ["tiny-fp32"]


def test_no_data_is_bad_use_and_the_reason_is_given(trained: Path, run: Run) -> None:
    code, _, err = run("export", trained / "best")
    assert code == 2
    assert "the file must answer like the network on real images" in err
    assert "give --data DATA" in err


def test_data_with_other_classes_are_refused_before_a_folder_is_made(
    trained: Path, tiny_run: ModuleType, tmp_path: Path, run: Run
) -> None:
    other = tiny_run.make_folder(tmp_path / "other", labels=("green", "mauve"), each=4)
    code, _, err = run("export", trained / "best", "--data", other)
    assert code == 2
    assert "mauve" in err
    assert not Path("runs").exists()


def test_a_folder_that_is_no_artifact_is_never_replaced(trained: Path, colours: Path, run: Run) -> None:
    Path("photos").mkdir()
    Path("photos/holiday.jpg").write_bytes(b"precious")
    code, _, err = run("export", trained / "best", "--data", colours, "-o", "photos")
    assert code == 2
    assert "holds something else" in err
    assert Path("photos/holiday.jpg").read_bytes() == b"precious"


def test_an_older_artifact_is_replaced(trained: Path, colours: Path, run: Run) -> None:
    for _ in range(2):
        assert run("export", trained / "last", "--data", colours, "-o", "rose")[0] == 0
    assert sorted(path.name for path in Path().iterdir()) == ["rose"]


def test_what_is_no_bundle_is_refused(artifact: Path, colours: Path, run: Run) -> None:
    assert run("export", artifact, "--data", colours)[0] == 2
    assert not Path("runs").exists()


def test_pictures_without_labels_are_enough_for_float32(trained: Path, colours: Path, run: Run) -> None:
    code, out, _ = run("export", trained / "best", "--images", colours, "-o", "rose", "--json")
    assert code == 0
    gates = {gate["name"]: gate for gate in json.loads(out)["gates"]}
    assert set(gates) == {"logits_max_difference", "top1_agreement"}
    assert gates["top1_agreement"]["n"] == 60
    assert gates["top1_agreement"]["on"] == "pictures"


def test_pictures_without_labels_are_not_enough_for_int8(trained: Path, colours: Path, run: Run) -> None:
    code, _, err = run("export", trained / "best", "--images", colours, "--precision", "int8")
    assert code == 2
    assert "for all but int8, --images with pictures is enough" in err
    assert run("export", trained / "best", "--images", colours, "--data", colours)[0] == 2


@pytest.mark.parametrize(
    ("format", "precision", "file"),
    [("onnx", "fp16", "model.onnx"), ("tflite", "fp32", "model.tflite"), ("openvino", "fp16", "model.xml")],
)
def test_other_formats_are_a_matter_of_one_option_and_predict_runs_them(
    format: str, precision: str, file: str, trained: Path, colours: Path, run: Run
) -> None:
    if not is_installed(DEFAULT_ENGINES[format]):
        pytest.skip(f"{DEFAULT_ENGINES[format]} is not installed")
    arguments = ("--data", colours, "--format", format, "--precision", precision, "--json")
    code, out, _ = run("export", trained / "best", *arguments)
    assert code == 0
    content = json.loads(out)
    assert (content["file"], content["precision"], content["fp32"]) == (file, precision, None)
    name = f"tiny-{precision}" if format == "onnx" else f"tiny-{format}-{precision}"
    assert Path(content["artifact"]) == Path("runs/export") / name
    code, out, _ = run("predict", content["artifact"], next(colours.glob("red/*.png")), "--top-k", 1)
    assert (code, len(out.splitlines())) == (0, 2)


@pytest.mark.parametrize("times", [(2.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize(
    ("format", "precision"),
    [pytest.param("openvino", "bf16", marks=needs("openvino", "bf16")), ("onnx", "int8-dynamic")],
)
def test_what_is_made_for_speed_has_to_be_faster_than_float32(
    format: str,
    precision: str,
    times: tuple[float, float],
    trained: Path,
    colours: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(*times))
    arguments = ("--images", colours, "--format", format, "--precision", precision, "-o", "rose")
    code, out, _ = run("export", trained / "best", *arguments)
    assert code == (0 if times[0] > times[1] else 1)
    assert ("beside it, as float32: rose-fp32" in out) == (code == 0)
    assert Path("rose").exists() == (code == 0)


def test_a_pair_that_cannot_be_made_is_told_with_those_that_can(trained: Path, colours: Path, run: Run) -> None:
    code, _, err = run("export", trained / "best", "--data", colours, "--format", "tflite", "--precision", "bf16")
    assert code == 2
    assert "tflite fp16" in err
    assert not Path("runs").exists()


def test_a_single_picture_is_too_little_to_hold_a_file_against(trained: Path, colours: Path, run: Run) -> None:
    picture = next(colours.rglob("*.png"))
    code, _, err = run("export", trained / "best", "--images", picture)
    assert code == 2
    assert "at least two" in err
    assert not Path("runs").exists()
