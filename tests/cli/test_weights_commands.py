"""`import` of state dicts and `export` of weights, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from mobilenets.bundle import read_bundle
from mobilenets.errors import UsageError
from mobilenets.train import WEIGHTS_LR, named_recipe
from mobilenets.weights import outgoing

timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def state_dict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("there") / "weights.pth"
    torch.save(timm.create_model("tf_mobilenetv3_small_075", num_classes=4).state_dict(), file)
    return file


def test_a_state_dict_comes_in_goes_out_and_loads_with_the_printed_lines(
    run: Run, state_dict: Path, tmp_path: Path
) -> None:
    code, out, _ = run("import", state_dict, "--as", "timm:tf_mobilenetv3_small_075", "-o", tmp_path / "here")
    assert code == 0
    assert "same padding" in out
    assert read_bundle(tmp_path / "here").spec.padding == "same"

    file = tmp_path / "back.safetensors"
    code, out, _ = run("export", tmp_path / "here", "--format", "timm", "-o", file)
    assert code == 0
    assert "timm loads it and gives the same logits" in out
    lines = [line.strip() for line in out.splitlines()[2:]]
    assert "model = timm.create_model('tf_mobilenetv3_small_075', num_classes=4" in "\n".join(lines)
    checking = "\n".join([*lines, "print(len(model.state_dict()))"])
    printed = subprocess.run([sys.executable, "-c", checking], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == str(len(torch.load(state_dict, weights_only=True)))


def test_json_tells_file_digest_lines_and_difference(run: Run, state_dict: Path, tmp_path: Path) -> None:
    assert run("import", state_dict, "-o", tmp_path / "here")[0] == 0
    code, out, _ = run("export", tmp_path / "here", "--format", "timm", "-o", tmp_path / "back.pth", "--json")
    content = json.loads(out)
    assert code == 0
    assert content["difference"] < 1e-4
    assert content["bundle_digest"] == read_bundle(tmp_path / "here").digest
    assert content["python"][-1].startswith("model.load_state_dict(torch.load(")


def test_without_the_library_it_says_that_nothing_was_checked(
    run: Run, state_dict: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("import", state_dict, "-o", tmp_path / "here")[0] == 0
    monkeypatch.setattr(outgoing, "installed", lambda library: False)
    code, out, _ = run("export", tmp_path / "here", "--format", "timm", "-o", tmp_path / "back.pth")
    assert code == 0
    assert "not checked, for timm is not installed here" in out
    assert (tmp_path / "back.pth").is_file()


def test_weights_that_answer_differently_there_are_not_written(
    run: Run, state_dict: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("import", state_dict, "-o", tmp_path / "here")[0] == 0
    # Symmetric padding on one side only: the state dict loads strictly, and the answers differ.
    monkeypatch.setattr(timm, "create_model", _padded(timm.create_model))
    code, _, err = run("export", tmp_path / "here", "--format", "timm", "-o", tmp_path / "back.pth")
    assert code == 1
    assert "timm answers differently" in err
    assert not (tmp_path / "back.pth").exists()


def _padded(create: Callable[..., object]) -> Callable[..., object]:
    return lambda name, **arguments: create(name, **{**arguments, "pad_type": "same"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "timm", "--precision", "int8"], "give only -o"),
        (["--format", "timm", "--data", "digits"], "give only -o"),
        (["--format", "timm", "-o", "weights.onnx"], ".safetensors"),
        (["--format", "transformers", "-o", "weights.pth"], "it has V1 and V2 only"),
        (["--format", "torchvision", "-o", "weights.pth"], "torchvision cannot hold"),
    ],
)
def test_what_cannot_go_out_is_refused_before_anything_is_written(
    arguments: list[str], told: str, run: Run, state_dict: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("import", state_dict, "-o", "here")[0] == 0
    code, _, err = run("export", "here", *arguments)
    assert code == 2
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_wrong_name_for_a_state_dict_is_refused(run: Run, state_dict: Path, tmp_path: Path) -> None:
    code, _, err = run("import", state_dict, "--as", "timm:mobilenetv2_100", "-o", tmp_path / "here")
    assert code == 2
    assert "was taken for mobilenetv2_100, but" in err
    assert not (tmp_path / "here").exists()


def test_training_goes_on_from_a_checkpoints_file_at_a_gentle_rate(
    run: Run, state_dict: Path, colours: Path, tmp_path: Path
) -> None:
    words = ("train", state_dict, colours, "--resolution", "32", "--epochs", "1", "--batch-size", "16")
    code, _, err = run(*words, "-o", tmp_path / "gentle")
    assert code == 0, err
    assert "learning rate 0.04" in err
    args = yaml.safe_load((tmp_path / "gentle" / "args.yaml").read_text())
    assert args["recipe"]["lr"] == 0.04
    assert args["bundle_digest"] is not None
    code, _, err = run(*words, "--lr", "0.3", "-o", tmp_path / "told")
    assert code == 0, err
    assert "learning rate" not in err
    assert yaml.safe_load((tmp_path / "told" / "args.yaml").read_text())["recipe"]["lr"] == 0.3
    code, _, err = run(*words, "--recipe", "v2", "-o", tmp_path / "recipe")
    assert code == 0, err
    assert yaml.safe_load((tmp_path / "recipe" / "args.yaml").read_text())["recipe"]["lr"] == named_recipe("v2").lr


def test_a_name_with_its_library_is_weights_and_not_a_table(run: Run, colours: Path, tmp_path: Path) -> None:
    code, _, err = run("train", "timm:mobilenetv3_small_050", colours, "--epochs", "1", "-o", tmp_path / "out")
    assert code == 2
    assert "cannot fetch timm/mobilenetv3_small_050.lamb_in1k" in err
    assert not (tmp_path / "out").exists()


def test_the_rate_from_weights_is_the_one_that_help_tells(run: Run) -> None:
    assert import_module("mobilenets.fit.fit").WEIGHTS_LR == WEIGHTS_LR
    for verb in ("train", "elastic"):
        _, out, _ = run(verb, "--help")
        assert f"from weights {WEIGHTS_LR:g}]" in " ".join(out.split())


def test_fit_reads_whose_weights_it_begins_from(
    run: Run, state_dict: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*_: object, **options: object) -> None:
        asked.append(options["weights"])
        raise UsageError("enough", wanted="nothing", do="nothing")

    monkeypatch.setattr("mobilenets.fit.fit", refuse)
    words = ("fit", colours, "--size-mb", "1", "-o", tmp_path / "out")
    for more in ((), ("--weights", "none"), ("--weights", "published"), ("--weights", f"{state_dict},timm:it")):
        assert run(*words, *more)[0] == 2
    assert asked == ["auto", "none", "published", (str(state_dict), "timm:it")]
