from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from making import patches, settled_bundle
from mobilenets.arch import compose, with_channels
from mobilenets.bundle import Bundle
from mobilenets.errors import RecipeError, SpecError, UsageError
from mobilenets.nets import build
from mobilenets.records import Preprocess
from mobilenets.tasks import Targets
from mobilenets.train import Batch, Distillation, EvalPixels, Outcome, Recipe, Setting, distil, train
from mobilenets.train.answer import BundleModel
from mobilenets.train.loader import Batches, normalise
from mobilenets.train.teacher import Teacher

SIDE = 16
LABELS = ("a", "b", "c")
OURS = Preprocess(resolution=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
STILL = {"mirror": False, "crop_padding": 0.0}


def teacher(*, labels: Sequence[str] = LABELS, side: int = SIDE, channels: int = 3) -> Bundle:
    spec = compose("mobilenet_v1", alpha=0.1, resolution=side, stride="small", classes=len(labels))
    return replace(settled_bundle(with_channels(spec, channels)), labels=tuple(labels))


class Source:
    def __init__(self, count: int = 48) -> None:
        self.uniform = np.ascontiguousarray(patches(count, SIDE))
        self.targets = np.random.default_rng(1).integers(0, 3, count)  # labels that say nothing

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


def student_spec(tiny_run: ModuleType, channels: int = 3):
    return with_channels(tiny_run.tiny_spec(), channels)


def setting(tiny_run: ModuleType, recipe: Recipe, *, channels: int = 3) -> Setting:
    torch.manual_seed(0)
    spec = student_spec(tiny_run, channels)
    spec = msgspec.structs.replace(spec, head=msgspec.structs.replace(spec.head, dropout=0.0))
    preprocess = OURS if channels == 3 else Preprocess(resolution=SIDE, channels=1, mean=(0.5,), std=(0.25,))
    source = Source()
    if channels == 1:
        source.uniform = source.uniform[..., :1].copy()
    return Setting(
        network=build(spec).train(),
        recipe=recipe,
        labels=LABELS,
        preprocess=preprocess,
        batches=Batches(source, recipe, preprocess),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def batch_of(made: Setting, count: int = 8) -> Batch:
    source = Source()
    pixels = source.uniform[:count, ..., : made.preprocess.channels]
    images = normalise(torch.from_numpy(pixels.copy()), made.preprocess)
    return Batch(images, Targets(torch.from_numpy(source.targets[:count])), np.arange(count), 1.0)


def run(out: Path, tiny_run: ModuleType, objective, **changes) -> Outcome:
    source, resume = changes.pop("source", Source()), changes.pop("resume", "never")
    return train(
        tiny_run.tiny_spec(),
        source,
        EvalPixels(source.uniform[:16], source.targets[:16]),
        Recipe(**{"epochs": 4.0, "batch_size": 16, "lr": 0.5, "precision": "fp32", **changes}),
        labels=LABELS,
        preprocess=OURS,
        out=out,
        device="cpu",
        resume=resume,
        objective=objective,
    )


def test_the_loss_is_hintons_with_the_teachers_own_preprocessing(tiny_run: ModuleType) -> None:
    made, wise = setting(tiny_run, Recipe(epochs=1.0, label_smoothing=0.0)), teacher()
    batch = batch_of(made)
    got = distil(wise, Distillation(temperature=3.0, weight=0.7))(made).learn(batch, step=0)
    gradient = made.network.head.classifier.weight.grad.clone()
    made.network.zero_grad()
    # The second witness asks the teacher as anybody would: with its own preprocessing, from the pixels.
    said = torch.from_numpy(BundleModel(wise, device="cpu").run(Source().uniform[:8]))
    logits = made.network(batch.images)
    hot, own = F.softmax(said / 3, dim=1), F.log_softmax(logits / 3, dim=1)
    soft = (hot * (hot.log() - own)).sum(dim=1).mean()
    wanted = 0.3 * F.cross_entropy(logits, batch.targets.classes) + 0.7 * 9 * soft
    wanted.backward()
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, made.network.head.classifier.weight.grad, rtol=1e-3, atol=1e-5)


def test_classes_are_matched_by_name_and_a_teacher_may_know_more(tiny_run: ModuleType) -> None:
    wise = teacher(labels=("c", "x", "a", "b"))
    made = setting(tiny_run, Recipe(epochs=1.0))
    said = Teacher(made, wise).logits(batch_of(made))
    whole = BundleModel(wise, device="cpu").run(Source().uniform[:8])
    np.testing.assert_allclose(said.numpy(), whole[:, [2, 3, 0]], rtol=1e-3, atol=1e-4)


def test_a_teacher_without_a_class_of_the_data_is_refused_unless_only_its_features_are_wanted(
    tiny_run: ModuleType,
) -> None:
    made, other = setting(tiny_run, Recipe(epochs=1.0)), teacher(labels=("a", "b"))
    with pytest.raises(UsageError, match="no teacher for this data: the data has classes that the model lacks: c"):
        distil(other)(made)
    loss = distil(other, Distillation(weight=0.0, features=(2,)))(made).learn(batch_of(made), step=0)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 3), (3, 1)])
def test_a_grey_student_may_have_a_teacher_who_sees_colours_and_not_the_other_way(
    ours: int, theirs: int, tiny_run: ModuleType
) -> None:
    made = setting(tiny_run, Recipe(epochs=1.0), channels=ours)
    if ours > theirs:
        with pytest.raises(UsageError, match="the teacher takes images of 1 channel"):
            distil(teacher(channels=theirs))(made)
        return
    said = Teacher(made, teacher(channels=theirs)).logits(batch_of(made))
    grey = np.repeat(Source().uniform[:8, ..., :1], 3, axis=3)
    wanted = BundleModel(teacher(channels=theirs), device="cpu").run(grey)
    np.testing.assert_allclose(said.numpy(), wanted, rtol=1e-3, atol=1e-4)


def test_a_teacher_at_another_resolution_sees_the_images_at_its_own(tiny_run: ModuleType) -> None:
    made = setting(tiny_run, Recipe(epochs=1.0))
    assert torch.isfinite(distil(teacher(side=32))(made).learn(batch_of(made), step=0))


def test_kept_answers_of_fixed_views_are_those_that_the_teacher_gives(tiny_run: ModuleType) -> None:
    still, moving = setting(tiny_run, Recipe(epochs=1.0, **STILL)), setting(tiny_run, Recipe(epochs=1.0))
    kept, asked = Teacher(still, teacher()), Teacher(moving, teacher())
    assert (kept.keeps, asked.keeps) == (True, False)
    batch = batch_of(still, count=40)
    torch.testing.assert_close(kept.logits(batch), asked.logits(batch), rtol=1e-4, atol=1e-5)
    shuffled = Batch(batch.images, batch.targets, np.arange(40)[::-1].copy(), 1.0)
    torch.testing.assert_close(kept.logits(shuffled), asked.logits(batch).flip(0), rtol=1e-4, atol=1e-5)


def test_a_student_learns_what_no_label_says(tiny_run: ModuleType, tmp_path: Path) -> None:
    wise = teacher()
    objective = distil(wise, Distillation(weight=1.0))
    student = run(tmp_path, tiny_run, objective, epochs=60.0, lr=4.0, **STILL).last
    images = Source().uniform
    said, meant = (BundleModel(b, device="cpu").run(images).argmax(axis=1) for b in (student, wise))
    assert (said == meant).mean() > 0.85
    told = student.history[-1]["teacher"]
    assert told["digest"] == wise.digest
    assert (told["temperature"], told["weight"]) == (4.0, 1.0)


def test_matched_maps_come_nearer_to_the_teachers(tiny_run: ModuleType, tmp_path: Path) -> None:
    objective = distil(teacher(), Distillation(weight=0.0, features=(2,), feature_weight=5.0))
    rows = run(tmp_path, tiny_run, objective, epochs=20.0, lr=0.2).rows
    assert rows[-1].train_loss < 0.8 * rows[0].train_loss


@pytest.mark.parametrize("changes", [{}, STILL])
def test_a_distilled_run_that_goes_on_ends_bit_equal(
    changes: dict, tiny_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenets.train.loop.CHECKPOINT_SECONDS", 0.0)
    how, wise = Distillation(features=() if changes else (2,)), teacher()
    whole = run(tmp_path / "whole", tiny_run, distil(wise, how), **changes)

    def dies(made: Setting):
        objective = distil(wise, how)(made)
        learn = objective.learn

        def until(batch: Batch, *, step: int) -> torch.Tensor:
            if step == 7:
                raise KeyboardInterrupt
            return learn(batch, step=step)

        objective.learn = until
        return objective

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", tiny_run, dies, **changes)
    rest = run(tmp_path / "part", tiny_run, distil(wise, how), resume="must", **changes)
    assert rest.last.digest == whole.last.digest


def test_another_teacher_cannot_go_on_with_a_run(tiny_run: ModuleType, tmp_path: Path) -> None:
    run(tmp_path, tiny_run, distil(teacher()), epochs=1.0)
    other = replace(teacher(), tensors={k: v * 0.5 for k, v in teacher().tensors.items()})
    with pytest.raises(UsageError, match="not the same as then: the objective"):
        run(tmp_path, tiny_run, distil(other), epochs=1.0, resume="must")


def test_a_teacher_who_never_learned_classes_is_refused(tiny_run: ModuleType) -> None:
    fresh = replace(teacher(), history=({"step": "import", "classifier": "none in the file"},))
    with pytest.raises(UsageError, match="was never trained"):
        distil(fresh)(setting(tiny_run, Recipe(epochs=1.0)))


def test_what_cannot_be_learned_is_refused_by_name(tiny_run: ModuleType) -> None:
    for field, value in (("temperature", 0.0), ("weight", 1.5), ("features", (2, 2)), ("feature_weight", -1.0)):
        with pytest.raises(RecipeError, match=field):
            Distillation(**{field: value})
    with pytest.raises(RecipeError, match="or features to match"):
        Distillation(weight=0.0)
    with pytest.raises(SpecError, match="no map at stride 64"):
        distil(teacher(), Distillation(features=(64,)))(setting(tiny_run, Recipe(epochs=1.0)))
