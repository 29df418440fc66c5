"""`import` of state dicts and `export` of weights, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobilenets.bundle import read_bundle
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
