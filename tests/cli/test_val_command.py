from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mobilenets.errors import CheckError, DataError, UsageError
from mobilenets.runtime.validate import match_labels, validation_of

Run = Callable[..., tuple[int, str, str]]


def test_a_bundle_and_its_artifact_score_alike(trained: Path, artifact: Path, colours: Path, run: Run) -> None:
    bundle, exported = (json.loads(run("val", model, colours, "--json")[1]) for model in (trained / "best", artifact))
    assert (bundle.pop("model"), exported.pop("model")) == (str(trained / "best"), str(artifact))
    assert bundle.pop("calibration_error") == pytest.approx(exported.pop("calibration_error"), abs=1e-4)
    assert bundle == exported
    assert (bundle["split"], bundle["n"], bundle["data"]) == ("test", 6, "colours")


def test_the_split_can_be_chosen(artifact: Path, colours: Path, run: Run) -> None:
    assert json.loads(run("val", artifact, colours, "--split", "val", "--json")[1])["split"] == "val"
    assert run("val", artifact, colours, "--split", "train")[0] == 2


def test_where_the_images_come_from_is_said_beside_the_numbers(artifact: Path, colours: Path, run: Run) -> None:
    _, out, err = run("val", artifact, colours, "--json")
    assert "val and test drawn from the training images with seed 0" in err
    assert json.loads(out)["split"] == "test"


def test_the_table_shows_the_interval_and_every_class(artifact: Path, colours: Path, run: Run) -> None:
    code, out, _ = run("val", artifact, colours)
    assert code == 0
    assert "95 % interval" in out
    assert all(label in out for label in ("blue", "green", "red"))
    assert "top-5" not in out  # three classes


def test_balanced_accuracy_and_calibration_are_told_beside_top_1(artifact: Path, colours: Path, run: Run) -> None:
    told = json.loads(run("val", artifact, colours, "--json")[1])
    assert told["balanced"] == pytest.approx(np.mean([score["accuracy"] for score in told["classes"]]))
    out = run("val", artifact, colours)[1]
    assert f"balanced accuracy  {100 * told['balanced']:.2f} %" in out
    assert f"calibration error  {told['calibration_error']:.4f}" in out


def test_each_class_counts_alike_in_the_balanced_accuracy() -> None:
    targets = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    logits = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0, 0, 0, 1]]
    measured = validation_of(logits, targets, labels=("a", "b", "c"), data="some", split="val")
    assert measured.top1 == pytest.approx(7 / 8)
    assert measured.balanced == pytest.approx((1 + 1 / 2) / 2)  # "c" has no images


def test_fewer_classes_than_the_model_knows_are_matched_by_name(
    artifact: Path, tiny_run: ModuleType, tmp_path: Path, run: Run
) -> None:
    fewer = tiny_run.make_folder(tmp_path / "fewer", labels=("green", "red"), each=10)
    content = json.loads(run("val", artifact, fewer, "--json")[1])
    assert content["top1"] == 1.0
    assert {score["label"] for score in content["classes"]} == {"green", "red"}


def test_a_class_that_the_model_lacks_is_named(artifact: Path, tiny_run: ModuleType, tmp_path: Path, run: Run) -> None:
    other = tiny_run.make_folder(tmp_path / "other", labels=("green", "mauve"), each=4)
    code, out, err = run("val", artifact, other, "--json")
    assert code == 2
    assert "mauve" in json.loads(out)["error"]["got"]
    assert "mauve" in err


def test_an_artifact_is_measured_without_torch(artifact: Path, colours: Path) -> None:
    code = (
        "import sys; from mobilenets.cli.val import command;"
        f"command.main([{str(artifact)!r}, {str(colours)!r}], standalone_mode=False);"
        "print(sorted({'torch', 'torchvision', 'onnx'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_labels_are_matched_whatever_their_order() -> None:
    assert match_labels(("c", "a", "b"), ("a", "b", "c")).tolist() == [1, 2, 0]
    with pytest.raises(UsageError, match="lacks: d"):
        match_labels(("a", "b"), ("a", "d"))


def test_the_worst_class_comes_first_and_says_what_it_is_taken_for() -> None:
    targets = np.array([0, 0, 1, 1, 1, 2])
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 2, 1, 2]]
    measured = validation_of(logits, targets, labels=("a", "b", "c", "d"), data="some", split="val")
    assert [(score.label, score.right, score.n) for score in measured.classes] == [
        ("b", 1, 3),
        ("a", 1, 2),
        ("c", 1, 1),
    ]
    assert [score.mostly_taken_for for score in measured.classes] == ["c", "b", None]
    assert measured.top1 == pytest.approx(0.5)
    assert measured.top1_low < 0.5 < measured.top1_high
    assert measured.top5 is None


def test_no_images_and_answers_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        validation_of(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), labels=("a", "b"), data="x", split="val")
    wrong = np.array([[np.nan, 0.0]], np.float32)
    with pytest.raises(CheckError, match="1 of 1"):
        validation_of(wrong, np.zeros(1, np.int64), labels=("a", "b"), data="x", split="val")


def test_folders_called_by_wordnet_identifiers_find_english_classes() -> None:
    found = match_labels(("goldfish", "tench, Tinca tinca", "car"), ("n01440764", "n01443537"))
    assert found.tolist() == [1, 0]
    with pytest.raises(UsageError, match="great white shark"):
        match_labels(("goldfish", "tench"), ("n01440764", "n01484850"))
    assert match_labels(("n01443537", "n01440764"), ("n01440764",)).tolist() == [1]
