from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobilenets.arch import cost
from mobilenets.bundle import read_bundle

Run = Callable[..., tuple[int, str, str]]
NARROW = ("--divisor", "2", "--minimum", "2")
SHORT = ("--epochs", "4", "--lr", "1", "--set", "batch_size=16")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_images_the_weights_decide_and_training_is_asked_for(run: Run, trained: Path) -> None:
    code, out, _ = run("prune", trained / "best", "--mult-adds", "0.6x", *NARROW)
    assert code == 0
    made, before = read_bundle(Path("runs/prune/tiny-pruned/best")), read_bundle(trained / "best")
    assert cost(made.spec).mult_adds <= 0.6 * cost(before.spec).mult_adds
    assert made.history[-1]["importance"] == "l2"
    lines = out.splitlines()
    assert lines[0].split() == ["row", "type", "out", "inside"]
    assert lines[2].startswith(f"1    bottleneck  {before.spec.rows[1].out} -> {made.spec.rows[1].out}  ")
    assert any(line.startswith("mult_adds: ") and line.endswith("x)") for line in lines)
    assert "its accuracy must be restored by training" in lines[-2]
    assert lines[-1] == "next: mobilenets train runs/prune/tiny-pruned/best DATA --epochs 12 --lr 0.1"


def test_with_images_it_is_trained_in_steps_and_can_be_exported(run: Run, trained: Path, colours: Path) -> None:
    code, out, _ = run(
        *("prune", trained / "best", colours, "--mult-adds", "0.6x", "--steps", "2", *SHORT, *NARROW, "-o", "small")
    )
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("step")] == ["step 1", "step 2"]
    assert "validation top-1: " in out
    code, told, _ = run("val", "small/best", colours, "--json")
    assert code == 0
    assert json.loads(told)["top1"] > 0.8
    _, _, following = out.splitlines()[-1].partition("next: mobilenets ")
    code, _, _ = run(*shlex.split(following), "-o", "artifact")
    assert code == 0
    assert Path("artifact/artifact.json").is_file()


def test_json_tells_every_width_and_what_it_costs(run: Run, trained: Path, colours: Path) -> None:
    code, out, _ = run("prune", trained / "best", colours, "--parameters", "0.7x", *NARROW, "-o", "small", "--json")
    assert code == 0
    told = json.loads(out)
    made = read_bundle(Path(told["best"]))
    assert (told["digest"], told["parent"]) == (made.digest, read_bundle(trained / "best").digest)
    assert told["after"]["parameters"] == cost(made.spec).parameters <= 0.7 * told["before"]["parameters"]
    assert [width["name"] for width in told["widths"]] == ["rows.0.out", "rows.1.expanded", "rows.2.out"]
    assert [width["after"] for width in told["widths"]] == [
        made.spec.rows[0].out,
        made.spec.rows[1].expanded,
        made.spec.rows[2].out,
    ]
    assert [step["trained_top1"] for step in told["steps"]] == [None]
    assert 0 <= told["after"]["top1"] <= 1
    assert told["latency_ms"] is None


def test_the_whole_network_can_teach_and_no_other_one_goes_on(run: Run, trained: Path, colours: Path) -> None:
    words = ("prune", trained / "best", colours, "--mult-adds", "0.6x", *SHORT, *NARROW, "-o", "small")
    code, _, _ = run(*words, "--teacher", "self", "--temperature", "2")
    assert code == 0
    teacher = read_bundle(Path("small/best")).history[-1]["teacher"]
    assert (teacher["digest"], teacher["temperature"]) == (read_bundle(trained / "best").digest, 2.0)
    code, _, _ = run(*words, "--teacher", trained / "best", "--temperature", "2", "--resume")  # the same by its path
    assert code == 0
    # The pruned one: what was trained last may be the very network that was best.
    code, _, err = run(*words, "--teacher", "small/best", "--temperature", "3", "--resume")
    assert code == 2
    assert "not the same as then: teacher, distillation" in err


def test_a_latency_is_measured_here(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilenets.fit.latency import LatencyTable

    def confirm(self: LatencyTable, option: object) -> SimpleNamespace:
        assert self.threads == 1
        return SimpleNamespace(high_ms=cost(option.spec).mult_adds / 1e6)

    monkeypatch.setattr(LatencyTable, "confirm", confirm)
    whole = cost(read_bundle(trained / "best").spec).mult_adds / 1e6
    code, out, _ = run("prune", trained / "best", "--latency-ms", "0.7x", "--threads", "1", *NARROW, "-o", "fast")
    assert code == 0
    assert cost(read_bundle(Path("fast/best")).spec).mult_adds / 1e6 <= 0.7 * whole
    assert f"latency: {whole:.3f} ms -> " in out


def test_ctrl_c_keeps_everything_and_the_printed_command_goes_on(
    run: Run, trained: Path, colours: Path, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    with ctrl_c_at(1, once=Path("small/step-1/train")):
        code, out, _ = run(
            *("prune", trained / "best", colours, "--mult-adds", "0.6x", "--set", "batch_size=16", "--epochs", "2"),
            *(*NARROW, "-o", "small"),
        )
    assert code == 130
    assert not Path("small/best").exists()
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    assert "0.6x" in again
    code, out, err = run(*shlex.split(again))
    assert code == 0
    assert "going on from step 2" in err
    assert Path("small/best/bundle.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give one of --mult-adds, --parameters, --size-mb, --latency-ms"),
        (("--mult-adds", "0.5x", "--size-mb", "1"), "give one of --mult-adds"),
        (("--mult-adds", "half"), "no amount; write 0.5x"),
        (("--mult-adds", "1.5x"), "a share between 0 and 1"),
        (("--mult-adds", "900G"), "nothing to do"),
        (("--mult-adds", "0.5x", "--importance", "taylor"), "need images; give DATA"),
        (("--mult-adds", "0.5x", "--epochs", "3"), "need images; give DATA"),
        (("--mult-adds", "0.5x", "--lr", "0.1"), "give --epochs as well"),
        (("--mult-adds", "0.5x", "--teacher", "self"), "give --epochs as well"),
        (("--mult-adds", "0.5x", "--temperature", "2"), "are about a --teacher; give one"),
        (("--mult-adds", "0.5x", "--threads", "2"), "--threads is for --latency-ms"),
        (("--mult-adds", "0.5x", "--divisor", "0"), "divisor = 0"),
        (("--mult-adds", "0.5x", "-o", "a", "--name", "b"), "both name the folder"),
    ],
)
def test_wrong_use_says_what_is_wrong_and_leaves_nothing(
    run: Run, trained: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = run("prune", trained / "best", *options)
    assert code == 2
    assert said in err
    assert not list(Path().glob("runs/prune/*"))


def test_a_bound_that_cannot_be_kept_is_a_failed_check(run: Run, trained: Path) -> None:
    code, out, err = run("prune", trained / "best", "--mult-adds", "0.01x", "--json")
    assert code == 1
    assert json.loads(out)["error"]["kind"] == "BudgetError"
    assert "with every width at its least" in err
