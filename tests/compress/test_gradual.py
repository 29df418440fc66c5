"""Pruning with training between: steps, what is kept of them, and going on after a stop."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from compress.tables import table
from mobilenets.arch import BottleneckRow, ConvRow, cost
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.compress import Limits, Pruned, Target, prune_run
from mobilenets.compress import gradual as module
from mobilenets.data import Dataset, open_dataset
from mobilenets.errors import UsageError
from mobilenets.train import Distillation, Recipe
from mobilenets.train.run import train_run
from mobilenets.train.validate import validate_bundle

SPEC = table(ConvRow(out=12, stride=2), BottleneckRow(out=12, expanded=24), ConvRow(out=24, kernel=1), classes=3)
LIMITS = Limits(divisor=2, minimum=2)
RECIPE = Recipe(epochs=2.0, batch_size=16, lr=0.2, precision="fp32")
HALF = Target(of="mult_adds", most=0.5, relative=True)


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A folder of 60 images, dark, middling and bright."""
    root = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for label, level in (("bright", 200), ("dark", 60), ("middling", 130)):
        (root / label).mkdir()
        for number in range(20):
            noise = rng.normal(level, 20, size=(8, 8, 3))
            Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(root / label / f"{number}.png")
    return open_dataset(root)


@pytest.fixture(scope="module")
def whole(shades: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    recipe = msgspec.structs.replace(RECIPE, epochs=12.0, lr=1.0)
    return train_run(SPEC, shades, recipe, out=tmp_path_factory.mktemp("whole"), device="cpu").best


def run(whole: Bundle, shades: Dataset, out: Path, **changes: object) -> Pruned:
    told = {"recipe": RECIPE, "steps": 2, "limits": LIMITS, "device": "cpu", **changes}
    return prune_run(whole, shades, told.pop("target", HALF), out=out, **told)


def test_every_step_cuts_by_the_same_factor_and_is_told_with_its_accuracy(
    whole: Bundle, shades: Dataset, tmp_path: Path
) -> None:
    made = run(whole, shades, tmp_path)
    before = cost(whole.spec).mult_adds
    first, last = made.steps
    assert 0.5**0.5 * 0.85 * before < first.mult_adds <= 0.5**0.5 * before
    assert 0.4 * before < last.mult_adds <= 0.5 * before
    assert made.finished
    assert cost(made.best.spec).mult_adds == last.mult_adds
    assert [entry["step"] for entry in made.best.history] == ["train", "prune", "train", "prune", "train"]
    assert read_bundle(tmp_path / "best").digest == made.best.digest
    assert made.top1 == validate_bundle(whole, shades, split="val", device="cpu").top1
    assert last.trained_top1 == pytest.approx(validate_bundle(made.best, shades, split="val", device="cpu").top1)
    assert last.trained_top1 > 0.8
    assert json.loads((tmp_path / "step-2" / "step.json").read_text())["top1"] == last.top1


def test_without_a_recipe_nothing_is_trained(whole: Bundle, shades: Dataset, tmp_path: Path) -> None:
    made = run(whole, shades, tmp_path, recipe=None, importance="l1", allocation="uniform")
    assert [step.trained_top1 for step in made.steps] == [None, None]
    assert [entry["step"] for entry in made.best.history] == ["train", "prune", "prune"]
    assert made.best.history[-1]["recalibration_images"] > 0


def test_a_run_that_was_stopped_anywhere_ends_bit_equal(
    whole: Bundle, shades: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(whole, shades, tmp_path / "straight")
    out = tmp_path / "stopped"
    train, cut, validate = module.train_run, module.prune, module.validate_bundle
    calls = {"train": 0, "prune": 0, "validate": 0}

    def once(name: str, number: int, call, stop):
        def counted(*given, **named):
            calls[name] += 1
            if calls[name] == number:
                stop()
            return call(*given, **named)

        return counted

    def killed() -> None:
        raise KeyboardInterrupt

    stops = 0
    with monkeypatch.context() as patch:
        # In the first cut, after it, at the beginning of a training, in the second cut, and once by Ctrl-C while
        # training, which the loop answers by itself.
        patch.setattr(module, "prune", once("prune", 1, once("prune", 3, cut, killed), killed))
        patch.setattr(module, "validate_bundle", once("validate", 2, validate, killed))
        patch.setattr(module, "train_run", once("train", 1, train, killed))
        for _ in range(8):
            try:
                made = run(whole, shades, out, resume=True)
            except KeyboardInterrupt:
                stops += 1
                continue
            break
    assert stops >= 3
    assert made.finished
    assert made.best.digest == straight.best.digest
    assert made.steps == straight.steps
    again = run(whole, shades, out, resume=True)
    assert again.best.digest == straight.best.digest


def test_ctrl_c_while_training_keeps_everything_and_the_same_call_goes_on(
    whole: Bundle, shades: Dataset, tmp_path: Path, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    with ctrl_c_at(3, once=tmp_path / "step-1" / "train"):
        stopped = run(whole, shades, tmp_path)
    assert not stopped.finished
    assert stopped.steps == ()
    assert not (tmp_path / "best").exists()
    assert run(whole, shades, tmp_path, resume=True).finished


def test_a_teacher_is_learned_from_behind_every_cut_and_told(whole: Bundle, shades: Dataset, tmp_path: Path) -> None:
    moving = msgspec.structs.replace(RECIPE, ema=0.0)  # an average over so few steps is the start
    # Uniform, for ranks by trained weights would give the second cut other widths with a teacher and without.
    how = {"recipe": moving, "allocation": "uniform"}
    made = run(whole, shades, tmp_path, **how, teacher=whole, distillation=Distillation(temperature=2.0))
    trainings = [entry for entry in made.best.history[len(whole.history) :] if entry["step"] == "train"]
    assert [(entry["teacher"]["digest"], entry["teacher"]["temperature"]) for entry in trainings] == [
        (whole.digest, 2.0),
        (whole.digest, 2.0),
    ]
    without = run(whole, shades, tmp_path / "without", **how)
    assert without.best.digest != made.best.digest
    assert [step.mult_adds for step in without.steps] == [step.mult_adds for step in made.steps]
    assert "teacher" not in without.best.history[-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": None, "distillation": None}, "teacher, distillation"),
        ({"distillation": Distillation(weight=0.5)}, "distillation"),
        ({"teacher": "another"}, "teacher"),
    ],
)
def test_a_run_is_not_gone_on_with_under_another_teacher(
    whole: Bundle, shades: Dataset, tmp_path: Path, changes: dict, said: str
) -> None:
    told = {"steps": 1, "teacher": whole, "distillation": Distillation()}
    run(whole, shades, tmp_path, **told)
    if changes.get("teacher") == "another":
        tensors = {name: tensor + 1 for name, tensor in whole.tensors.items()}
        changes = {"teacher": replace(whole, tensors=tensors)}
    with pytest.raises(UsageError, match=f"not the same as then: {said}; "):
        run(whole, shades, tmp_path, **{**told, **changes}, resume=True)
    assert run(whole, shades, tmp_path, **told, resume=True).finished


def test_a_teacher_that_cannot_teach_is_told_before_anything_is_written(
    whole: Bundle, shades: Dataset, tmp_path: Path
) -> None:
    stranger = replace(whole, labels=("bright", "dark", "striped"))
    with pytest.raises(UsageError, match="no teacher for this data"):
        run(whole, shades, tmp_path, teacher=stranger)
    with pytest.raises(UsageError, match="a teacher, and no training"):
        run(whole, shades, tmp_path, teacher=whole, recipe=None)
    with pytest.raises(UsageError, match="distillation without a teacher"):
        run(whole, shades, tmp_path, distillation=Distillation())
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_refused(whole: Bundle, shades: Dataset, tmp_path: Path) -> None:
    run(whole, shades, tmp_path, recipe=None, steps=1)
    with pytest.raises(UsageError, match="not the same as then: steps, importance"):
        run(whole, shades, tmp_path, recipe=None, steps=2, importance="l2", resume=True)


def test_what_cannot_be_is_refused(whole: Bundle, shades: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to do"):
        run(whole, shades, tmp_path, target=Target(of="mult_adds", most=1e9))
    with pytest.raises(UsageError, match="0 steps"):
        run(whole, shades, tmp_path, steps=0)
    with pytest.raises(UsageError, match="no way to measure"):
        run(whole, shades, tmp_path, target=Target(of="latency_ms", most=1.0))
    other = msgspec.structs.replace(whole.preprocess)
    renamed = Bundle(spec=whole.spec, task="classify", labels=("a", "b", "c"), preprocess=other, tensors=whole.tensors)
    with pytest.raises(UsageError, match="labels that are not those of the bundle"):
        run(renamed, shades, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_step_that_is_there_already_cuts_nothing(whole: Bundle, shades: Dataset, tmp_path: Path) -> None:
    coarse = Limits(divisor=12, minimum=12)
    made = run(
        whole,
        shades,
        tmp_path,
        recipe=None,
        steps=6,
        limits=coarse,
        target=Target(of="parameters", most=0.8, relative=True),
    )
    sizes = [step.parameters for step in made.steps]
    assert len(sizes) == 6
    assert len(set(sizes)) < 6
    assert sizes == sorted(sizes, reverse=True)
