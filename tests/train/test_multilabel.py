"""Images with any number of labels: the loss, the run, the teacher."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from making import settled_bundle
from mobilenets.arch import with_classes
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.compress import Target, prune
from mobilenets.data import Dataset, ScanSummary, Split
from mobilenets.errors import FileFormatError, RecipeError, UsageError
from mobilenets.metrics import average_precisions
from mobilenets.records import Preprocess
from mobilenets.tasks import TASKS, Targets
from mobilenets.train import Distillation, EvalPixels, Recipe, check_teacher, distil, train
from mobilenets.train.answer import BundleModel
from mobilenets.train.loader import Batches, positive_weights
from mobilenets.train.run import train_run
from mobilenets.train.validate import measure_bundle, validate_bundle

LABELS = ("red", "square", "bright")
SIDE = 16
LEARNED = LABELS[::2]  # by a network of a second; squares take longer
LOSS, ANSWERS = TASKS["multilabel"].loss, TASKS["multilabel"].answers
QUICK = Recipe(epochs=8.0, batch_size=24, lr=0.5, precision="fp32", mirror=False, crop_padding=0.0)


def pictures(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which each of three things is there or not, by itself: uint8 (count, 16, 16, 3), float32 (count, 3)."""
    rng = np.random.default_rng(seed)
    has = rng.random((count, 3)) < 0.4
    pixels = rng.normal(90, 12, (count, SIDE, SIDE, 3))
    pixels[has[:, 0], :, :, 0] += 50
    pixels[has[:, 1], 5:11, 5:11] -= 60
    pixels[has[:, 2]] += 60
    return np.clip(pixels, 0, 255).astype(np.uint8), has.astype(np.float32)


class Source:
    """What the loader reads."""

    def __init__(self, uniform: np.ndarray, targets: np.ndarray) -> None:
        self.uniform, self.targets = uniform, targets

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


@pytest.fixture(scope="module", name="things")
def things_fixture() -> Dataset:
    return things_of()


def things_of() -> Dataset:
    """Of some training images nobody knows whether there is a square."""
    parts = {}
    for number, (split, count) in enumerate((("train", 240), ("val", 90))):
        pixels, targets = pictures(count, seed=number)
        if split == "train":
            targets[::7, 1] = np.nan
        parts[split] = Split(targets=targets, names=tuple(map(str, range(count))), pixels=pixels)
    counts = {split: dict.fromkeys(LABELS, 1) for split in parts}
    summary = ScanSummary(source="things", counts=counts, images={split: len(part) for split, part in parts.items()})
    return Dataset("things", LABELS, parts, summary, "things-1", task="multilabel")


@pytest.fixture(scope="module")
def trained(things: Dataset, tiny_run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("multilabel") / "run"
    train_run(tiny_run.tiny_spec(), things, QUICK, out=out, device="cpu")
    return out


def wise(tiny_run: ModuleType, labels: tuple[str, ...] = LABELS) -> Bundle:
    made = settled_bundle(with_classes(tiny_run.tiny_spec(), len(labels)))
    return replace(made, task="multilabel", labels=labels)


def test_the_loss_sums_what_is_known_with_targets_moved_towards_a_half() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    known = torch.tensor([[1.0, 0.0], [0.0, float("nan")]])
    p = logits.detach().sigmoid()
    by_hand = 0.0
    for row, column, y in ((0, 0, 0.95), (0, 1, 0.05), (1, 0, 0.05)):
        by_hand -= y * p[row, column].log() + (1 - y) * (1 - p[row, column]).log()
    loss = LOSS(logits, Targets(known), 0.1)
    torch.testing.assert_close(loss, by_hand / 2)
    loss.backward()
    assert logits.grad[1, 1] == 0  # and is no NaN
    assert (logits.grad.flatten()[:3] != 0).all()


def test_blended_images_have_blended_targets_and_know_only_what_both_know() -> None:
    logits = torch.tensor([[0.3, -0.7, 1.1]])
    one, other = torch.tensor([[1.0, 0.0, float("nan")]]), torch.tensor([[0.0, 0.0, 1.0]])
    got = LOSS(logits, Targets(one, other, torch.tensor([0.7])), 0.0)
    wanted = F.binary_cross_entropy_with_logits(logits[:, :2], torch.tensor([[0.7, 0.0]]), reduction="sum")
    torch.testing.assert_close(got, wanted)


def test_a_rare_labels_ones_count_as_much_as_its_zeros() -> None:
    targets = np.array([[1, 1], [0, 1], [0, np.nan], [0, 0]], np.float32)
    np.testing.assert_allclose(positive_weights(targets, "inverse"), [3.0, 0.5])
    np.testing.assert_allclose(positive_weights(targets, "sqrt_inverse"), [3**0.5, 0.5**0.5])
    assert positive_weights(targets, "none") is None
    weighed = Targets(torch.ones(1, 2), weights=torch.tensor([3.0, 0.5]))
    torch.testing.assert_close(
        LOSS(torch.zeros(1, 2), weighed, 0.0), torch.tensor(3.5 * np.log(2), dtype=torch.float32)
    )


def test_softened_answers_are_hintons_for_two_classes_each() -> None:
    rng = torch.Generator().manual_seed(0)
    own, said = torch.randn(5, 3, generator=rng), torch.randn(5, 3, generator=rng)
    # The second witness: a label is a softmax over yes and no.
    pairs = [torch.stack([x, torch.zeros_like(x)], dim=2).reshape(-1, 2) for x in (own, said)]
    torch.testing.assert_close(ANSWERS(own, said, 3.0), 3 * TASKS["classify"].answers(*pairs, 3.0))
    assert ANSWERS(said, said, 3.0) == pytest.approx(0, abs=1e-6)


def test_independent_labels_are_learned_and_told(trained: Path, things: Dataset) -> None:
    bundle = read_bundle(trained / "best")
    assert (bundle.task, bundle.labels) == ("multilabel", LABELS)
    measured = measure_bundle(bundle, things, split="val", device="cpu")
    chance = things.split("val").targets.mean()
    found = {score.label: score.average_precision for score in measured.labels}
    assert all(found[label] > chance + 0.3 for label in LEARNED)
    assert measured.map == pytest.approx(np.mean(list(found.values())))
    rows = (trained / "results.csv").read_text().splitlines()
    assert "eval_map" in rows[0]
    assert "top1" not in rows[0]
    told = json.loads((trained / "best" / "bundle.json").read_text())["history"][-1]["measured"]
    assert told["eval_map"] == pytest.approx(100 * measured.map)
    assert "eval_top1" not in told
    assert (trained / "classes.csv").read_text().splitlines()[0] == "label,images,positive,average_precision,f1"
    left = {path.name for path in trained.iterdir()}
    assert {"curves.png", "samples.png", "args.yaml"} <= left
    assert "confusion.png" not in left


def run(out: Path, tiny_run: ModuleType, targets: np.ndarray, **changes):
    pixels, _ = pictures(len(targets))
    return train(
        tiny_run.tiny_spec(),
        Source(pixels, targets),
        EvalPixels(*pictures(30, seed=1)),
        msgspec.structs.replace(QUICK, **changes.pop("recipe", {})),
        labels=LABELS,
        task="multilabel",
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        **changes,
    )


def test_an_interrupted_run_ends_bit_equal(
    tiny_run: ModuleType, tmp_path: Path, ctrl_c_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    _, targets = pictures(48)
    targets[::5, 0] = np.nan
    whole = run(tmp_path / "whole", tiny_run, targets)
    with ctrl_c_at(5):
        assert not run(tmp_path / "part", tiny_run, targets).finished
    rest = run(tmp_path / "part", tiny_run, targets, resume="must")
    for name, tensor in whole.last.tensors.items():
        np.testing.assert_array_equal(tensor, rest.last.tensors[name])


def test_a_student_comes_near_to_its_teachers_answers(tiny_run: ModuleType, tmp_path: Path) -> None:
    teacher = wise(tiny_run, ("other", *LABELS[::-1]))  # more labels, in another order
    pixels, _ = pictures(48)
    said = BundleModel(teacher, device="cpu").run(pixels)[:, [3, 2, 1]]
    nothing = np.full((48, 3), np.nan, np.float32)  # labels say nothing: all comes from the teacher

    def distance(bundle: Bundle) -> float:
        answers = torch.from_numpy(BundleModel(bundle, device="cpu").run(pixels))
        return float(ANSWERS(answers, torch.from_numpy(said), 1.0))

    taught = run(
        tmp_path / "taught",
        tiny_run,
        nothing,
        recipe={"epochs": 30.0},
        objective=distil(teacher, Distillation(temperature=2.0)),
    )
    alone = run(tmp_path / "alone", tiny_run, nothing, recipe={"epochs": 30.0})
    assert distance(taught.last) < 0.5 * distance(alone.last)
    assert taught.last.history[-1]["teacher"]["digest"] == teacher.digest


def test_a_teacher_of_another_task_may_only_lend_its_embedding(tiny_run: ModuleType) -> None:
    teacher = replace(wise(tiny_run), task="classify")
    with pytest.raises(UsageError, match="of the task 'classify', the data of 'multilabel'"):
        check_teacher(teacher, LABELS, Distillation(), task="multilabel")
    check_teacher(teacher, LABELS, Distillation(weight=0.0, embedding="cosine"), task="multilabel")


def test_a_classifier_of_the_same_labels_lends_all_but_its_last_layer(
    things: Dataset, tiny_run: ModuleType, tmp_path: Path
) -> None:
    start = replace(wise(tiny_run), task="classify")
    still = Recipe(epochs=0.1, batch_size=24, lr=1e-9, ema=0.0, precision="fp32", freeze="backbone")
    made = train_run(start, things, still, out=tmp_path / "run", device="cpu").last
    assert made.task == "multilabel"
    kept = {name for name, tensor in start.tensors.items() if np.array_equal(tensor, made.tensors[name])}
    assert {name for name in start.tensors if name.startswith("rows.")} <= kept
    assert "head.classifier.weight" not in kept


def test_what_cannot_be_with_any_number_of_labels_is_refused(things: Dataset, tiny_run: ModuleType) -> None:
    _, targets = pictures(48)
    balanced = Recipe(epochs=1.0, sampling="balanced")
    with pytest.raises(RecipeError, match="any number of labels"):
        Batches(Source(pictures(48)[0], targets), balanced, Preprocess(resolution=SIDE))
    with pytest.raises(UsageError, match="accuracy for the task 'multilabel'"):
        validate_bundle(wise(tiny_run), things)
    with pytest.raises(UsageError, match="prune for the task 'multilabel'"):
        prune(wise(tiny_run), Target(of="parameters", most=0.5, relative=True))
    with pytest.raises(UsageError, match="the model is of the task 'classify'"):
        measure_bundle(replace(wise(tiny_run), task="classify"), things)


def test_average_precision_of_the_run_is_that_of_its_logits(trained: Path, things: Dataset) -> None:
    bundle, val = read_bundle(trained / "best"), things.split("val")
    logits = BundleModel(bundle, device="cpu").run(val.pixels)
    measured = {s.label: s.average_precision for s in measure_bundle(bundle, things, split="val", device="cpu").labels}
    wanted = dict(zip(LABELS, average_precisions(logits, val.targets), strict=True))
    assert measured == pytest.approx(wanted)


def test_a_bundle_that_does_not_say_its_task_is_a_classifier_and_an_unknown_task_is_told(
    tiny_run: ModuleType, tmp_path: Path
) -> None:
    replace(wise(tiny_run), task="classify").write(tmp_path / "old")
    path = tmp_path / "old" / "bundle.json"
    content = json.loads(path.read_text())
    del content["task"]
    path.write_text(json.dumps(content))
    assert read_bundle(tmp_path / "old").task == "classify"
    path.write_text(json.dumps({**content, "task": "guess"}))
    with pytest.raises(FileFormatError, match="for the task 'guess'; one of classify, multilabel"):
        read_bundle(tmp_path / "old")


def test_mixing_and_weights_of_rare_labels_go_through_a_run(tiny_run: ModuleType, tmp_path: Path) -> None:
    _, targets = pictures(48)
    targets[::4, 2] = np.nan
    recipe = {"mixup": 0.4, "cutmix": 1.0, "class_weights": "inverse", "epochs": 1.0}
    made = run(tmp_path / "run", tiny_run, targets, recipe=recipe)
    assert all(np.isfinite(tensor).all() for tensor in made.last.tensors.values())
    assert np.isfinite(made.rows[-1].train_loss)
    assert made.rows[-1].train_loss > 0
