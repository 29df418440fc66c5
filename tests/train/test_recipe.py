from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import RecipeError
from mobilenets.train import Recipe, read_recipe, with_settings


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


@given(schedule=st.sampled_from(["cosine", "linear", "constant"]), warmup=st.floats(0, 0.9), progress=st.floats(0, 1))
def test_the_rate_is_between_0_and_1_rises_in_the_warm_up_and_never_after(
    schedule: str, warmup: float, progress: float
) -> None:
    recipe = Recipe(epochs=1.0, schedule=schedule, warmup=warmup)
    rate = recipe.rate(progress)
    assert 0 <= rate <= 1
    later = recipe.rate(min(1.0, progress + 0.01))
    if progress + 0.01 < warmup:
        assert later >= rate
    elif progress >= warmup:
        assert later <= rate + 1e-12


def test_schedules_end_where_they_should() -> None:
    assert Recipe(epochs=1.0).rate(1.0) == pytest.approx(0.0)
    assert Recipe(epochs=1.0, schedule="linear").rate(1.0) == pytest.approx(0.0)
    assert Recipe(epochs=1.0, schedule="constant").rate(1.0) == 1.0
