from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobilenets.export import artifact as exporting
from mobilenets.export import training
from mobilenets.runtime import open_artifact

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


def test_what_was_tried_and_kept_is_told_with_the_gates(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(3.0, 1.0))
    code, out, _ = run("quantize", trained / "best", colours, "-o", "rose-int8", "--json")
    assert code == 0
    content = json.loads(out)
    assert (content["artifact"], content["fp32"], content["precision"]) == ("rose-int8", "rose-fp32", "int8")
    assert all(gate["passed"] for gate in content["gates"])
    assert content["gates"][-1]["value"] == 3.0
    assert content["kept"] in content["trials"]
    assert content["kept"]["noise"] == min(trial["noise"] for trial in content["trials"])
    assert open_artifact(Path("rose-int8")).artifact.precision == "int8"
    assert open_artifact(Path("rose-fp32")).artifact.precision == "fp32"


def test_a_named_calibration_is_the_only_one(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(3.0, 1.0))
    code, out, _ = run("quantize", trained / "best", colours, "--calibration", "percentile")
    assert code == 0
    assert "made by: percentile" in out
    assert "speedup_over_fp32 3 >= 1" in out
    assert out.splitlines()[-1] == "next: mobilenets bench runs/export/tiny-fp32 runs/export/tiny-int8"


def test_int8_that_is_slower_exits_with_1_and_there_is_no_artifact(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(1.0, 2.0))
    code, out, err = run("quantize", trained / "best", colours)
    assert (code, out) == (1, "")
    assert "speedup_over_fp32 = 0.5" in err
    assert [path.name for path in Path("runs/export").iterdir()] == ["tiny-fp32"]


def test_a_folder_that_holds_something_else_is_left_alone(trained: Path, colours: Path, run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    code, _, err = run("quantize", trained / "best", colours, "-o", "mine")
    assert code == 2
    assert "mine holds something else" in err
    assert Path("mine/letter.txt").read_text() == "dear"


def test_a_network_is_trained_for_int8_and_its_bundle_exports_so_later(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", timed(3.0, 1.0))
    words = ("--qat", "1", "--set", "batch_size=16", "--teacher", "self")
    code, out, _ = run("quantize", trained / "best", colours, *words, "-o", "rose-int8", "--json")
    assert code == 0
    content = json.loads(out)
    assert content["kept"]["trained"]
    assert {"float_before", "int8_before", "float_after", "int8_after", "n"} < set(content["qat"])
    bundle = Path(content["qat"]["bundle"])
    assert bundle == Path("runs/quantize/tiny-colours/best")
    assert "recipe" in (bundle.parent / "args.yaml").read_text()
    code, out, _ = run("quantize", bundle, colours, "-o", "again-int8")
    assert code == 0
    assert "made by: ranges as trained" in out
    assert (Path("again-int8") / "model.onnx").read_bytes() == (Path("rose-int8") / "model.onnx").read_bytes()
    # The training is done, so going on with it only exports once more.
    code, out, _ = run("quantize", trained / "best", colours, *words, "--resume", "-o", "rose-int8")
    assert code == 0
    assert "trained for int8: runs/quantize/tiny-colours/best" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lr", "0.1"), "--lr is about training; give --qat EPOCHS"),
        (("--resume",), "--resume is about training"),
        (("--set", "lr=0.1"), "--set is about training"),
        (("--qat", "1", "--calibration", "minmax"), "--qat trains the ranges"),
        (("--qat", "1", "--temperature", "2"), "about a --teacher"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_is_read(
    words: tuple[str, ...], told: str, run: Run
) -> None:
    code, _, err = run("quantize", "nowhere", "nothing", *words)
    assert code == 2
    assert told in err


def test_a_training_that_was_stopped_says_how_to_go_on(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train_for_int8", lambda *_, **__: (None, None))
    code, out, err = run("quantize", trained / "best", colours, "--qat", "2", "-o", "rose", "--name", "mine")
    assert (code, out) == (130, "")
    assert f"mobilenets quantize {trained / 'best'} {colours} --qat 2.0 -o rose --name mine --resume" in err
    assert not Path("rose").exists()


def test_int8_that_lost_a_point_in_training_is_no_artifact(
    trained: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = training.Int8Scores(float_before=1.0, int8_before=1.0, float_after=0.9, int8_after=0.9, n=12)
    monkeypatch.setattr(training, "train_for_int8", lambda *_, **__: (SimpleNamespace(best=None), scores))
    code, _, err = run("quantize", trained / "best", colours, "--qat", "2", "-o", "rose")
    assert code == 1
    assert "accuracy_drop_since_before_training" in err
    assert not Path("rose").exists()
