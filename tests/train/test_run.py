from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import yaml
from PIL import Image

from mobilenets.bundle import read_bundle
from mobilenets.data import Dataset, open_dataset
from mobilenets.data.memory import dataset_in_memory
from mobilenets.errors import UsageError
from mobilenets.train import Outcome, Recipe
from mobilenets.train.run import train_run
from mobilenets.train.validate import validate_bundle

RECIPE = Recipe(epochs=8, batch_size=16, lr=1.0, precision="fp32")
COLUMNS = ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr", "step", "seconds"]
COLUMNS += ["eval_balanced", "eval_calibration"]


@pytest.fixture(scope="module")
def trained(tiny_run: ModuleType, colours: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("run") / "tiny"
    return train_run(tiny_run.tiny_spec(), colours, RECIPE, out=out, command="as typed"), out


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_every_file_it_promises(trained: tuple[Outcome, Path]) -> None:
    outcome, out = trained
    assert {path.name for path in out.iterdir()} == {
        "args.yaml",
        "results.csv",
        "classes.csv",
        "curves.png",
        "confusion.png",
        "samples.png",
        "best",
        "last",
        "checkpoint.safetensors",
    }
    assert read_bundle(out / "best").digest == outcome.best.digest
    assert read_bundle(out / "last").digest == outcome.last.digest
    for name in ("curves", "confusion", "samples"):
        with Image.open(out / f"{name}.png") as image:
            image.verify()


def test_results_have_timms_columns_and_a_line_per_validation(trained: tuple[Outcome, Path]) -> None:
    outcome, out = trained
    rows = rows_of(out)
    assert list(rows[0]) == COLUMNS
    assert [float(row["eval_top1"]) for row in rows] == pytest.approx([row.eval_top1 for row in outcome.rows], rel=1e-5)
    assert float(rows[-1]["epoch"]) == RECIPE.epochs


def test_every_class_has_its_line_with_its_own_accuracy(trained: tuple[Outcome, Path], colours: Dataset) -> None:
    outcome, out = trained
    with (out / "classes.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == list(colours.labels)
    assert sum(int(line["images"]) for line in lines) == len(colours.split("val"))
    right = sum(int(line["right"]) for line in lines)
    assert 100 * right / len(colours.split("val")) == pytest.approx(100 * outcome.top1)


def test_colours_are_learned(trained: tuple[Outcome, Path]) -> None:
    outcome, _ = trained
    assert outcome.finished
    assert outcome.top1 > 0.9


def test_args_hold_the_recipe_the_data_and_the_command(trained: tuple[Outcome, Path], colours: Dataset) -> None:
    _, out = trained
    content = yaml.safe_load((out / "args.yaml").read_text())
    assert msgspec.convert(content["recipe"], Recipe) == RECIPE
    assert (content["command"], content["data_digest"]) == ("as typed", colours.digest)
    assert content["images"] == {"train": 48, "val": 6, "test": 6}


def test_an_interrupted_run_that_goes_on_ends_like_one_that_was_not(
    trained: tuple[Outcome, Path],
    tiny_run: ModuleType,
    colours: Dataset,
    tmp_path: Path,
    ctrl_c_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    whole, _ = trained
    with ctrl_c_at(7):
        part = train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path)
    assert not part.finished
    assert {"best", "last", "curves.png", "results.csv"} <= {path.name for path in tmp_path.iterdir()}
    rest = train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path, resume="must")
    assert rest.finished
    assert rest.last.digest == whole.last.digest
    assert rows_of(tmp_path)[-1]["step"] == str(whole.rows[-1].step)


def test_resuming_without_a_checkpoint_is_refused(tiny_run: ModuleType, colours: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path, resume="must")


@pytest.mark.parametrize(("resolution", "stands"), [(None, ("tiny", 16)), (24, ("tiny_24", 24))])
def test_a_bundle_goes_on_to_other_classes_with_a_new_classifier(
    trained: tuple[Outcome, Path],
    tiny_run: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    resolution: int | None,
    stands: tuple[str, int],
) -> None:
    outcome, _ = trained
    other = open_dataset(tiny_run.make_folder(tmp_path / "other", labels=("blue", "green", "grey", "red"), each=8))
    recipe = Recipe(epochs=1, batch_size=16, precision="fp32")
    tuned = train_run(outcome.best, other, recipe, out=tmp_path / "run", resolution=resolution)
    assert (tuned.best.spec.name, tuned.best.preprocess.resolution) == stands
    assert tuned.best.labels == ("blue", "green", "grey", "red")
    assert [step["step"] for step in tuned.best.history] == ["train", "adapt", "train"]
    assert tuned.best.history[1]["digest"] == outcome.best.digest
    assert "the classifier begins anew with 4" in capsys.readouterr().err


def test_a_bundle_keeps_its_classifier_for_the_same_classes(
    trained: tuple[Outcome, Path], colours: Dataset, tmp_path: Path
) -> None:
    outcome, _ = trained
    recipe = Recipe(epochs=1, batch_size=16, lr=1e-6, precision="fp32")
    again = train_run(outcome.best, colours, recipe, out=tmp_path)
    assert again.top1 == pytest.approx(outcome.top1)


def test_alpha_for_a_bundle_is_refused(trained: tuple[Outcome, Path], colours: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave alpha away"):
        train_run(trained[0].best, colours, RECIPE, out=tmp_path, alpha=0.5)


@pytest.mark.parametrize("keep", [False, True])
def test_mirroring_of_letters_is_off_and_said_unless_it_is_asked_for(
    keep: bool, tiny_run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = (np.zeros((4, 16, 16, 3), np.uint8), np.arange(4) % 3, np.arange(4))
    letters = dataset_in_memory(
        "letters", labels=("b", "d", "p"), splits={"train": part, "val": part}, digest="0", mirror_safe=False
    )
    recipe = Recipe(epochs=1, precision="fp32")
    outcome = train_run(tiny_run.tiny_spec(), letters, recipe, out=tmp_path, keep_mirror=keep)
    assert outcome.best.history[-1]["recipe"]["mirror"] is keep
    assert ("mirroring is off" in capsys.readouterr().err) is not keep


def test_a_bundle_is_measured_with_its_labels_matched_by_name(
    trained: tuple[Outcome, Path], tiny_run: ModuleType, tmp_path: Path
) -> None:
    outcome, _ = trained
    fewer = open_dataset(tiny_run.make_folder(tmp_path / "fewer", labels=("green", "red"), each=10))
    measured = validate_bundle(outcome.best, fewer, split="val")
    assert measured.top1 > 0.9
    assert {score.label for score in measured.classes} == {"green", "red"}


def test_a_class_the_bundle_lacks_is_named(trained: tuple[Outcome, Path], tiny_run: ModuleType, tmp_path: Path) -> None:
    other = open_dataset(tiny_run.make_folder(tmp_path / "other", labels=("green", "mauve"), each=4))
    with pytest.raises(UsageError, match="mauve"):
        validate_bundle(trained[0].best, other)
