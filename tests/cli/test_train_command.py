from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from torch import Tensor, nn

from mobilenets.bundle import read_bundle
from mobilenets.cli.main import main
from mobilenets.train.loader import Batches

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def spec(tiny_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table's file, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    path: Path = tiny_run.write_spec(tmp_path / "tiny.json")
    return path


def test_training_says_where_things_are_and_what_to_type_next(spec: Path, colours: Path, run: Run) -> None:
    code, out, err = run("train", spec.name, colours, "--epochs", "1", "--batch-size", "16")
    assert code == 0
    assert "validation top-1" in out
    assert out.splitlines()[-1] == f"next: mobilenets export runs/train/tiny.json-colours/best --data {colours}"
    assert "60 images of 3 classes" in err
    assert "images are 16 pixels a side: tiny.json at 16 pixels" in err
    assert Path("runs/train/tiny.json-colours/results.csv").is_file()


def test_a_second_run_gets_a_folder_of_its_own_and_json_tells_which(spec: Path, colours: Path, run: Run) -> None:
    arguments = ("train", spec, colours, "--epochs", "1", "--name", "rose", "--json")
    first, second = (json.loads(run(*arguments)[1]) for _ in range(2))
    assert (first["run"], second["run"]) == ("runs/train/rose", "runs/train/rose-2")
    assert first["digest"] == second["digest"]
    assert first["finished"]
    assert 0 <= first["top1"] <= 1
    assert len(first["rows"]) == 1


def test_options_and_settings_and_a_recipe_file_become_one_recipe(spec: Path, colours: Path, run: Run) -> None:
    Path("mine.yaml").write_text("seconds: 100\nlr: 0.3\nmomentum: 0.5\n")
    code, _, err = run(
        *("train", spec, colours, "-o", "out", "--recipe", "mine.yaml", "--epochs", "1"),
        *("--set", "cutout=0.25", "--set", "mirror=false", "--seed", "7"),
    )
    assert code == 0, err
    content = yaml.safe_load(Path("out/args.yaml").read_text())
    recipe = content["recipe"]
    assert (recipe["epochs"], recipe["seconds"], recipe["lr"], recipe["momentum"]) == (1.0, None, 0.3, 0.5)
    assert (recipe["cutout"], recipe["mirror"], recipe["seed"]) == (0.25, False, 7)
    assert shlex.split(content["command"])[:2] == ["mobilenets", "train"]


def test_time_ends_a_run(spec: Path, colours: Path, run: Run) -> None:
    content = json.loads(run("train", spec, colours, "--time", "1s", "--json", "-o", "out")[1])
    assert content["finished"]
    assert content["rows"][-1]["seconds"] < 4


def test_a_stopped_run_exits_with_130_and_its_last_line_goes_on(
    spec: Path, colours: Path, run: Run, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    with ctrl_c_at(4):
        code, out, _ = run(
            *("train", spec, colours, "--epochs", "4", "--batch-size", "16", "--set", "cutout=0.1", "--name", "rose")
        )
    assert code == 130
    assert Path("runs/train/rose/checkpoint.safetensors").is_file()
    assert Path("runs/train/rose/best").is_dir()
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    code, out, err = run(*shlex.split(again))
    assert code == 0
    assert "going on from step 5" in err
    assert out.splitlines()[-1].startswith("next: mobilenets export")


def test_what_was_tried_for_speed_is_typed_again_and_goes_on_as_it_was_found(
    spec: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: nn.Module, **_: object) -> None:
        def call(*_: object, **__: object) -> None:
            raise RuntimeError("No working C++ compiler found in torch")

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", broken)
    monkeypatch.setattr("mobilenets.train.probe.PROBE_SECONDS", 0.1)
    distort = Batches.distort

    def interrupt(self: Batches, images: Tensor, *, step: int) -> Tensor:
        if step == 2 and not stopped:
            stopped.append(step)  # perhaps in a step that is tried: then it is heard after the trial
            signal.raise_signal(signal.SIGINT)
        return distort(self, images, step=step)

    stopped: list[int] = []
    tuned = ("--probe", "--compile", "--set", "cutout=0.1", "--name", "rose", "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "distort", interrupt)
        code, out, err = run("train", spec, colours, "--epochs", "4", "--batch-size", "16", *tuned)
    assert code == 130
    assert "images/s" in err
    assert "there is no C++ compiler" in err
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    assert {"--probe", "--compile"} <= set(shlex.split(again))
    code, _, err = run(*shlex.split(again))
    assert code == 0
    assert "going on from step" in err
    assert "probe:" not in err
    assert read_bundle(Path("runs/train/rose/last")).history[-1]["way"]["compiled"] is False


def test_a_second_ctrl_c_stops_at_once_and_says_how_to_go_on(
    spec: Path, colours: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    distort = Batches.distort

    def interrupt(self: Batches, images: Tensor, *, step: int) -> Tensor:
        if step == 4:
            raise KeyboardInterrupt
        return distort(self, images, step=step)

    monkeypatch.setattr(Batches, "distort", interrupt)
    code, out, err = run("train", spec, colours, "--epochs", "4", "--batch-size", "16", "-o", "rose")
    assert (code, out) == (130, "")
    assert "the last checkpoint is kept. To go on: mobilenets train" in err
    assert err.splitlines()[-1] == "stopped"


def test_resume_goes_on_in_the_newest_run_of_that_name(spec: Path, colours: Path, run: Run) -> None:
    arguments = ("train", spec, colours, "--epochs", "1", "--name", "rose", "--json")
    run(*arguments)
    run(*arguments)
    content = json.loads(run(*arguments, "--resume")[1])
    assert content["run"] == "runs/train/rose-2"


def test_resuming_another_run_is_refused(spec: Path, colours: Path, run: Run) -> None:
    run("train", spec, colours, "--epochs", "1", "-o", "out")
    code, _, err = run("train", spec, colours, "--epochs", "2", "-o", "out", "--resume")
    assert code == 2
    assert "is of another run" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epochs", "1", "--time", "1m"], "give one"),
        (["-o", "x", "--name", "y"], "give one"),
        (["--lr", "1", "--set", "lr=2"], "--set lr repeats an option"),
        (["--set", "learning_rate=2"], "learning_rate"),
        (["--set", "cutout=2"], "cutout = 2.0"),
        (["--teacher", "nobody"], "the teacher nobody is no bundle"),
        (["--temperature", "2"], "are about a --teacher"),
        (["--freeze", "half"], "a number of stages"),
        (["--freeze", "9"], "tiny has 1 stages"),
        (["--set", "cutout"], "write key=value"),
        (["--time", "soon"], "write 90s"),
        (["--resume"], "there is no run"),
        (["--resume", "-o", "absent"], "no checkpoint"),
        (["--device", "abacus"], "abacus"),
        (["--recipe", "absent.yaml"], "absent.yaml"),
        (["--resolution", "0"], "resolution"),
    ],
)
def test_bad_use_is_told_and_leaves_no_run_behind(
    arguments: list[str], told: str, spec: Path, colours: Path, run: Run
) -> None:
    code, _, err = run("train", spec, colours, *arguments)
    assert code == 2
    assert told in err.splitlines()[-1]
    assert not list(Path("runs/train").glob("*")) if Path("runs/train").exists() else True
    assert not Path("absent").exists()


@pytest.mark.parametrize(("model", "data"), [("mobilnet_v2", "digits"), ("mobilenet_v2", "digit")])
def test_a_wrong_name_is_told_before_anything_is_made(model: str, data: str, spec: Path, run: Run) -> None:
    assert run("train", model, data)[0] == 2
    assert not Path("runs").exists()


def test_a_folder_in_use_is_not_written_to(spec: Path, colours: Path, run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    code, _, err = run("train", spec, colours, "-o", "mine")
    assert code == 2
    assert "holds something already" in err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_an_artifact_cannot_be_trained(artifact: Path, colours: Path, run: Run) -> None:
    code, _, err = run("train", artifact, colours)
    assert code == 2
    assert "give the bundle it was exported from" in err


def test_a_bundle_goes_on(trained: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("train", trained / "best", colours, "--epochs", "1", "--json", "-o", tmp_path / "on")
    assert code == 0
    assert "going on from a bundle of tiny" in err
    assert json.loads(out)["model"] == "tiny"


def test_the_command_needs_no_terminal_and_no_current_folder_but_o(
    spec: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(spec), str(colours), "--epochs", "1", "-o", str(tmp_path / "out")])
    assert stop.value.code == 0
    assert not list(empty.iterdir())


def test_a_teacher_is_learned_from_and_told_and_the_run_goes_on_with_it_only(
    trained: Path, spec: Path, colours: Path, run: Run, tiny_run: ModuleType
) -> None:
    arguments = ("train", spec, colours, "--epochs", "1", "-o", "out", "--temperature", "2", "--match", "2")
    code, out, err = run(*arguments, "--teacher", trained / "best", "--json")
    assert code == 0, err
    told = read_bundle(Path("out/best")).history[-1]["teacher"]
    assert told["digest"] == read_bundle(trained / "best").digest
    assert (told["temperature"], told["weight"], told["features"]) == (2.0, 0.9, [2])
    assert json.loads(out)["finished"]
    other = tiny_run.make_folder(Path("other"), labels=("blue", "mauve"))
    code, _, err = run("train", spec, other, "-o", "never", "--teacher", trained / "best")
    assert code == 2
    assert "no teacher for this data: the data has classes that the model lacks: mauve" in err
    assert not Path("never").exists()
    assert run(*arguments, "--teacher", trained / "best", "--resume")[0] == 0
    code, _, err = run(*arguments[:7], "--resume")
    assert code == 2
    assert "not the same as then: the objective" in err


def test_a_teacher_of_other_classes_teaches_its_embedding_where_its_answers_are_not_wanted(
    trained: Path, spec: Path, run: Run, tiny_run: ModuleType
) -> None:
    other = tiny_run.make_folder(Path("other"), labels=("blue", "mauve"))
    arguments = ("train", spec, other, "--epochs", "1", "--batch-size", "16", "--teacher", trained / "best")
    code, _, err = run(*arguments, "--match", "embedding", "-o", "out")
    assert code == 2
    assert "match its maps or embedding alone: weight 0" in err
    code, _, err = run(*arguments, "--teacher-weight", "0", "--match", "2,embedding", "-o", "out")
    assert code == 0, err
    told = read_bundle(Path("out/best")).history[-1]["teacher"]
    assert (told["weight"], told["features"], told["embedding"]) == (0.0, [2], "cosine")
    for match in ("embeddings", "embedding,embedding:squared", "embedding,x", ""):
        code, _, err = run(*arguments, "--match", match, "-o", "never")
        assert code == 2
        assert "such as 8,16, and embedding or embedding:squared, at most once" in err
