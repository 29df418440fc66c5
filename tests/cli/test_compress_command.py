from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ledger.measurements import clock
from mobilenets.bench import measure_all
from mobilenets.bundle import read_bundle
from mobilenets.export import artifact as exporting
from mobilenets.ledger import account
from mobilenets.runtime import open_artifact

Run = Callable[..., tuple[int, str, str]]
NARROW = ("--divisor", "2", "--minimum", "2")
SHORT = ("--epochs", "4", "--lr", "1", "--set", "batch_size=16", "--max-drop", "20", "--threads", "1")
HALF = ("--mult-adds", "0.6x")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What int8 gains on so small a network depends on the machine."""
    monkeypatch.setattr(account, "measure_all", clock())
    monkeypatch.setattr(exporting, "measure_all", clock())


def test_the_account_is_told_and_what_stands_can_be_used(run: Run, trained: Path, colours: Path) -> None:
    code, out, _ = run("compress", trained / "best", colours, *HALF, *SHORT, *NARROW)
    assert code == 0
    folder = Path("runs/compress/tiny-colours")
    assert out.startswith((folder / "ledger.md").read_text())
    assert "- distil: left out: no teacher was given" in out
    assert "- prune: kept: " in out
    assert "- quantise: kept: " in out
    assert open_artifact(folder / "artifact").artifact.bundle_digest == read_bundle(folder / "best").digest
    _, _, following = out.splitlines()[-1].partition("next: mobilenets ")
    assert shlex.split(following) == ["bench", f"{folder}/artifact", f"{folder}/start/fp32"]
    code, told, _ = run("val", folder / "artifact", colours, "--json")
    assert code == 0
    assert json.loads(told)["top1"] > 0.8


def test_json_is_the_ledger_and_a_bound_that_is_not_kept_a_failed_check(run: Run, trained: Path, colours: Path) -> None:
    words = ("compress", trained / "best", colours, "--parameters", "10", *SHORT, *NARROW, "-o", "small", "--json")
    code, out, err = run(*words)
    assert code == 1
    told = json.loads(out)
    assert [line["verdict"] for line in told["lines"]] == [
        "start",
        "left out",
        "rolled back",
        "kept",
        *["left out"] * 2,
    ]
    assert told["standing"] == 3
    assert told["most"] == 10
    assert told["over"].startswith("parameters is ")
    assert {key: told["plan"][key] for key in ("max_drop", "threads", "steps")} == {
        "max_drop": 20.0,
        "threads": 1,
        "steps": ["distil", "prune", "quantise", "qat", "weights"],
    }
    assert json.loads(Path("small/ledger.json").read_text())["lines"] == told["lines"]
    assert "| quantise | kept |" in err


def test_artifacts_are_timed_in_turn_in_processes_of_their_own(
    run: Run, trained: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "measure_all", measure_all)
    monkeypatch.setattr(account, "SECONDS", 0.06)
    words = ("compress", trained / "best", colours, *HALF, *SHORT, *NARROW, "--steps", "prune", "--json")
    code, out, _ = run(*words, "-o", "timed")
    assert code == 0
    start, pruned = (line["measured"] for line in json.loads(out)["lines"])
    assert start["latency"]["n"] >= 6
    assert pruned["latency"]["threads"] == 1
    assert pruned["latency"]["path"] == "1-prune/fp32"
    for ratio in (pruned["faster_than_start"], pruned["faster_than_before"]):
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
        assert ratio["rounds"] >= 6


def test_ctrl_c_keeps_everything_and_the_printed_command_goes_on(
    run: Run, trained: Path, colours: Path, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    words = ("compress", trained / "best", colours, *HALF, *SHORT, *NARROW, "--teacher", "self", "-o", "small")
    with ctrl_c_at(1, once=Path("small/2-prune/run/step-1/train")):
        code, out, _ = run(*words)
    assert code == 130
    assert not Path("small/best").exists()
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    code, _, err = run(*shlex.split(again), "--max-drop", "30")
    assert code == 2
    assert "not the same as then: max_drop" in err
    code, out, err = run(*shlex.split(again))
    assert code == 0
    assert "going on from step 2" in err
    assert "- distil: left out: a network has nothing to teach itself before it is cut" in out
    assert read_bundle(Path("small/best")).history[-1]["teacher"]["digest"] == read_bundle(trained / "best").digest


def test_training_for_int8_that_was_interrupted_goes_on_by_the_printed_command(
    run: Run, trained: Path, colours: Path, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    words = ("compress", trained / "best", colours, *SHORT, "--steps", "qat", "--qat", "2", "--teacher", "self")
    with ctrl_c_at(1):
        code, out, _ = run(*words, "-o", "aware")
    assert code == 130
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    code, out, err = run(*shlex.split(again), "--json")
    assert code == 0
    assert "going on from step" in err
    assert "| qat | kept |" in err
    told = json.loads(out)
    assert told["plan"]["qat"] == 2
    assert [(line["step"], line["verdict"]) for line in told["lines"]] == [("start", "start"), ("qat", "kept")]
    assert "trained for int8 for 2 epochs at a rate of 0.2, taught by " in told["lines"][1]["why"]
    assert told["lines"][1]["measured"]["precision"] == "int8"
    best = read_bundle(Path("aware/best"))
    assert best.history[-1]["teacher"]["digest"] == read_bundle(trained / "best").digest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give one of --mult-adds, --parameters, --size-mb, --latency-ms, or leave prune out of --steps"),
        (("--steps", "sharpen"), "some of distil, prune, quantise, qat"),
        ((*HALF, "--qat", "2", "--steps", "prune,quantise"), "qat = 2, and no such step"),
        ((*HALF, "--max-drop", "-1"), "max_drop = -1"),
        ((*HALF, "--temperature", "2"), "are about a --teacher; give one"),
        ((*HALF, "--teacher", "nobody"), "the teacher nobody is no bundle"),
        ((*HALF, "-o", "a", "--name", "b"), "both name the folder"),
    ],
)
def test_wrong_use_says_what_is_wrong_and_leaves_nothing(
    run: Run, trained: Path, colours: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = run("compress", trained / "best", colours, *options)
    assert code == 2
    assert said in err
    assert not list(Path().glob("runs/compress/*"))
