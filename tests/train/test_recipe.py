from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import RecipeError, UnknownNameError
from mobilenets.train import RECIPES, Recipe, named_recipe, read_recipe, with_settings


@pytest.mark.parametrize("length", [{}, {"epochs": 1.0, "seconds": 1.0}, {"epochs": 0.0}, {"seconds": -1.0}])
def test_a_recipe_has_exactly_one_positive_length(length: dict) -> None:
    with pytest.raises(RecipeError):
        Recipe(**length)


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 1), ("lr", 0.0), ("momentum", 1.0), ("label_smoothing", 1.0), ("crop_area", 0.0), ("ema", -0.1)],
)
def test_a_value_that_cannot_be_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=field):
        Recipe(**{"epochs": 1.0, field: value})


def test_settings_are_typed_like_the_fields_and_unknown_ones_listed() -> None:
    changed = with_settings(Recipe(epochs=2.0), {"lr": "0.5", "mirror": "false", "seconds": "60"})
    assert (changed.lr, changed.mirror, changed.seconds, changed.epochs) == (0.5, False, 60.0, None)
    with pytest.raises(RecipeError, match="learning_rate"):
        with_settings(Recipe(epochs=1.0), {"learning_rate": 0.1})
    with pytest.raises(RecipeError, match="lr"):
        with_settings(Recipe(epochs=1.0), {"lr": "fast"})


def test_yaml_and_json_are_read_and_mistakes_named(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("epochs: 5\nlr: 0.2\nschedule: linear\n")
    assert read_recipe(good) == Recipe(epochs=5.0, lr=0.2, schedule="linear")
    for text, says in (
        ("lr: 0.1\n", "neither"),
        ("- 1\n", "list"),
        ("epochs: [\n", "cannot read"),
        ("epochs: 1\nlrr: 1\n", "lrr"),
    ):
        bad = tmp_path / "bad.yaml"
        bad.write_text(text)
        with pytest.raises(RecipeError, match=says):
            read_recipe(bad)
    with pytest.raises(RecipeError, match="cannot read"):
        read_recipe(tmp_path / "absent.yaml")


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant", "step", "exponential"]),
    warmup=st.floats(0, 0.9),
    progress=st.floats(0, 1),
)
def test_the_rate_is_between_0_and_1_rises_in_the_warm_up_and_never_after(
    schedule: str, warmup: float, progress: float
) -> None:
    recipe = Recipe(epochs=1.0, schedule=schedule, warmup=warmup)
    rate = recipe.rate(progress, epoch=30 * progress)
    assert 0 <= rate <= 1
    later = recipe.rate(min(1.0, progress + 0.01), epoch=30 * progress + 0.3)
    if progress + 0.01 < warmup:
        assert later >= rate
    elif progress >= warmup:
        assert later <= rate + 1e-12


def test_schedules_end_where_they_should() -> None:
    assert Recipe(epochs=1.0).rate(1.0) == pytest.approx(0.0)
    assert Recipe(epochs=1.0, schedule="linear").rate(1.0) == pytest.approx(0.0)
    assert Recipe(epochs=1.0, schedule="constant").rate(1.0) == 1.0


def test_a_step_decay_falls_at_its_milestones() -> None:
    recipe = Recipe(epochs=1.0, schedule="step", warmup=0.0, decay=0.1, milestones=(0.5, 0.75))
    assert [recipe.rate(p) for p in (0.49, 0.5, 0.74, 0.75, 1.0)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_an_exponential_decay_falls_in_stairs_of_epochs() -> None:
    recipe = Recipe(epochs=30.0, schedule="exponential", warmup=0.0, decay=0.94, decay_epochs=2.5)
    epochs = (0.0, 2.49, 2.5, 5.0, 25.0)
    assert [recipe.rate(0.5, epoch=e) for e in epochs] == pytest.approx([1, 1, 0.94, 0.94**2, 0.94**10])


def test_the_rate_grows_with_the_batch_or_with_its_root() -> None:
    assert Recipe(epochs=1.0, lr=0.1, batch_size=1024).peak_lr == pytest.approx(0.4)
    assert Recipe(epochs=1.0, lr=0.1, batch_size=1024, lr_scaling="sqrt").peak_lr == pytest.approx(0.2)


# What the papers print, for the batches they had: (batch, rate) and a few fields.
# V2 section 6.1; V3 section 6.1; V4 Table 10, Conv-M; V1: TF-slim's mobilenet_v1_train.py
PRINTED = {
    "v1": ((64, 0.045), {"optimizer": "rmsprop", "decay": 0.94, "decay_epochs": 2.5, "weight_decay": 4e-5}),
    "v2": ((96, 0.045), {"optimizer": "rmsprop", "decay": 0.98, "decay_epochs": 1.0, "weight_decay": 4e-5}),
    "v3": ((4096, 0.1), {"optimizer": "rmsprop", "decay": 0.99, "decay_epochs": 3.0, "weight_decay": 1e-5}),
    "v4": ((4096, 0.004), {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.1, "drop_path": 0.075}),
}


@pytest.mark.parametrize("name", PRINTED)
def test_a_papers_recipe_has_the_papers_numbers(name: str) -> None:
    recipe = named_recipe(name)
    (batch, rate), fields = PRINTED[name]
    assert with_settings(recipe, {"batch_size": batch}).peak_lr == pytest.approx(rate)
    assert {field: getattr(recipe, field) for field in fields} == fields


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_comes_from(name: str) -> None:
    from importlib import resources

    text = resources.files("mobilenets.train.recipes").joinpath(f"{name}.yaml").read_text()
    assert "# Source: " in text
    assert named_recipe(name).epochs


def test_the_short_recipe_is_the_default_of_the_fields() -> None:
    assert named_recipe("short") == Recipe(epochs=30.0)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="short, v1, v2, v3, v4"):
        named_recipe("resnet")


def test_norm_momentum_follows_the_steps_of_an_epoch_and_of_the_run() -> None:
    auto = Recipe(epochs=100.0, norm_momentum="auto")
    assert auto.norm_momentum_for(313) == pytest.approx(4 / 313)  # V3's batches of 4096 on ImageNet; the paper has 0.01
    assert auto.norm_momentum_for(20) == pytest.approx(0.1)  # never fewer than 10 steps
    short = Recipe(epochs=1.0, norm_momentum="auto")
    assert short.norm_momentum_for(1000) == pytest.approx(1 / 50)  # a twentieth of the run
    assert with_settings(auto, {"norm_momentum": "0.02"}).norm_momentum_for(313) == 0.02
    with pytest.raises(RecipeError, match="norm_momentum"):
        with_settings(auto, {"norm_momentum": "fast"})


def test_norms_are_set_anew_while_their_statistics_are_far_behind() -> None:
    usual = Recipe(epochs=100.0)
    assert [usual.recalibration_for(step, per_epoch=300) for step in (20, 999, 1001)] == [4, 4, 0]
    assert [usual.recalibration_for(20, per_epoch=count) for count in (5, 12, 40)] == [2, 3, 4]
    slow = Recipe(epochs=100.0, ema=0.0, norm_momentum=0.001)
    assert [slow.recalibration_for(step, per_epoch=300) for step in (9090, 9091)] == [4, 0]
    for text, number in (("0", 0), ("20", 20)):
        assert with_settings(usual, {"recalibrate": text}).recalibration_for(20, per_epoch=300) == number
    for wrong in ("often", "-1"):
        with pytest.raises(RecipeError, match="recalibrate"):
            with_settings(usual, {"recalibrate": wrong})


def test_milestones_can_be_typed() -> None:
    assert with_settings(Recipe(epochs=1.0), {"milestones": "0.3, 0.6"}).milestones == (0.3, 0.6)
