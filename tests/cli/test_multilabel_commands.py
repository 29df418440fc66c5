"""A table of images with any number of labels, through the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mobilenets.bundle import read_bundle
from mobilenets.cli.main import main
from mobilenets.images import load
from mobilenets.train.answer import BundleModel

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures that are red or not, and bright or not."""
    root = tmp_path_factory.mktemp("table") / "lamps"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["file,red,bright"]
    for number in range(60):
        red, bright = number % 2, number // 2 % 2
        pixels = rng.normal(70, 10, (16, 16, 3)) + 90 * bright
        pixels[..., 0] += 70 * red
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "images" / f"{number}.png")
        lines.append(f"images/{number}.png,{red},{'' if number % 9 == 0 else bright}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def lamps(tiny_run: ModuleType, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, and beside it an artifact, made by the commands themselves."""
    root = tmp_path_factory.mktemp("lamps")
    spec = tiny_run.write_spec(root / "tiny.json")
    for words in (
        ["train", spec, table, "--epochs", "10", "--batch-size", "16", "--lr", "1", "-o", root / "run"],
        ["export", root / "run" / "best", "--data", table, "-o", root / "artifact"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 0
    return root


def test_bundle_and_file_have_the_same_precision_label_by_label(run: Run, lamps: Path, table: Path) -> None:
    code, out, _ = run("val", lamps / "run" / "best", table, "--split", "val", "--json")
    of_bundle = json.loads(out)
    assert code == 0
    assert of_bundle["map"] > 0.8
    assert {score["label"] for score in of_bundle["labels"]} == {"red", "bright"}
    _, out, _ = run("val", lamps / "artifact", table, "--split", "val", "--json")
    assert json.loads(out)["labels"] == of_bundle["labels"]
    assert json.loads(out)["loss"] == pytest.approx(of_bundle["loss"], rel=1e-3)
    _, out, _ = run("val", lamps / "artifact", table)
    assert "mean average precision" in out


def test_predict_tells_all_labels_that_are_there_and_no_others(run: Run, lamps: Path, table: Path) -> None:
    images = [table / "images" / f"{number}.png" for number in range(4)]
    code, out, _ = run("predict", lamps / "artifact", *images, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert all(score["probability"] > 0.5 for line in lines for score in line["top"])
    said = [{score["label"] for score in line["top"]} for line in lines]
    model = BundleModel(read_bundle(lamps / "run" / "best"), device="cpu")
    logits = model.run(np.stack([load(image, model.preprocess) for image in images]))
    assert said == [{label for label, logit in zip(model.labels, row, strict=True) if logit > 0} for row in logits]
    assert said[0] < said[3]
    assert all(len(line["top"]) <= 1 for line in map(json.loads, run(*_one(lamps, images))[1].splitlines()))
    table_text = run("predict", lamps / "run" / "best", *images)[1]
    assert len({line.split()[0] for line in table_text.splitlines()[1:] if line.strip().startswith("/")}) == 4


def _one(lamps: Path, images: list[Path]) -> list[object]:
    return ["predict", lamps / "artifact", *images, "--top-k", "1", "--json"]


def test_the_record_and_the_history_name_task_and_goal(run: Run, lamps: Path) -> None:
    assert json.loads((lamps / "artifact" / "artifact.json").read_text())["task"] == "multilabel"
    content = json.loads((lamps / "run" / "best" / "bundle.json").read_text())
    assert content["task"] == "multilabel"
    assert "eval_map" in content["history"][-1]["measured"]


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "{table}", "--size-mb", "1", "--time", "60s", "-o", "{out}"],
        ["elastic", "{table}", "--arch", "mobilenet_v2", "--widths", "0.25..0.5", "-o", "{out}"],
        ["compress", "{best}", "{table}", "--size-mb", "0.1", "-o", "{out}"],
        ["prune", "{best}", "{table}", "--parameters", "0.5x", "-o", "{out}"],
        ["quantize", "{best}", "{table}", "-o", "{out}"],
        ["diagnose", "{best}", "{table}"],
        ["doctor", "{artifact}", "{table}"],
        ["slice", "{best}", "--alpha", "0.5", "--data", "{table}", "-o", "{out}"],
        ["export", "{best}", "--data", "{table}", "--precision", "int8", "-o", "{out}"],
    ],
    ids=lambda words: words[0],
)
def test_commands_for_one_class_per_image_refuse_before_any_work(
    run: Run, lamps: Path, table: Path, tmp_path: Path, words: list[str]
) -> None:
    places = {"table": table, "best": lamps / "run" / "best", "artifact": lamps / "artifact", "out": tmp_path / "out"}
    code, _, err = run(*(word.format(**places) for word in words))
    assert code == 2
    assert "'multilabel'" in err
    assert not (tmp_path / "out").exists()


def test_data_and_models_of_different_tasks_are_told_apart(run: Run, lamps: Path, table: Path, colours: Path) -> None:
    best = lamps / "run" / "best"
    for words in (["val", best, colours], ["export", best, "--data", colours, "-o", lamps / "no"]):
        code, _, err = run(*words)
        assert code == 2
        assert "of the task 'multilabel'" in err
    code, _, err = run("train", "mobilenet_v1", colours, "--teacher", best, "--epochs", "1", "-o", lamps / "never")
    assert code == 2
    assert "the teacher tiny is of the task 'multilabel', the data of 'classify'" in err
    assert not (lamps / "never").exists()


def test_a_table_with_a_wrong_cell_is_told_with_its_line(run: Run, table: Path, tmp_path: Path) -> None:
    (table / "wrong.csv").write_text("file,red\nimages/0.png,1\nimages/1.png,maybe\n")
    code, _, err = run("train", "mobilenet_v1", table / "wrong.csv", "--epochs", "1", "-o", tmp_path / "out")
    assert code == 2
    assert "line 3: red is 'maybe'" in err
    assert not (tmp_path / "out").exists()
