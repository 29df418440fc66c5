from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mobilenets.arch import compose, find
from mobilenets.bundle import Bundle
from mobilenets.data import Dataset
from mobilenets.errors import RecipeError
from mobilenets.nets import build
from mobilenets.train import Recipe, with_settings
from mobilenets.train.run import train_run
from mobilenets.train.transfer import freeze_rows, frozen_rows, train_unfrozen
from mobilenets.train.update import make_optimizer

QUICK = Recipe(epochs=2, batch_size=16, lr=1.0, precision="fp32")


@pytest.fixture(scope="module")
def taught(tiny_run: ModuleType, colours: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train_run(tiny_run.tiny_spec(), colours, QUICK, out=tmp_path_factory.mktemp("taught")).last


@pytest.mark.parametrize(("freeze", "rows"), [("rows:2", 2), ("backbone", 3)])
@pytest.mark.parametrize("ema", [0.0, 0.1])
def test_frozen_rows_are_bit_equal_afterwards_running_statistics_included(
    freeze: str, rows: int, ema: float, taught: Bundle, colours: Dataset, tmp_path: Path
) -> None:
    recipe = with_settings(QUICK, {"freeze": freeze, "ema": ema, "recalibrate": 2, "weight_decay": 0.1})
    tuned = train_run(taught, colours, recipe, out=tmp_path)
    frozen = tuple(f"rows.{index}." for index in range(rows))
    for bundle in (tuned.best, tuned.last):
        for name, tensor in bundle.tensors.items():
            if name.startswith(frozen):
                assert np.array_equal(tensor, taught.tensors[name]), name
    assert not np.array_equal(tuned.last.tensors["head.classifier.weight"], taught.tensors["head.classifier.weight"])
    if rows == 2:
        for name in ("rows.2.conv.norm.running_mean", "rows.2.conv.conv.weight"):
            assert not np.array_equal(tuned.last.tensors[name], taught.tensors[name])


def test_frozen_rows_cost_no_backward_pass() -> None:
    network = build(compose("mobilenet_v2", alpha=0.1, resolution=32, stride="small", classes=2))
    freeze_rows(network, 10)
    train_unfrozen(network, 10)
    maps: list[torch.Tensor] = []
    network.rows[9].register_forward_hook(lambda _m, _i, output: maps.append(output))
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    assert maps[0].grad_fn is None  # autograd recorded nothing up to here
    assert {p.grad is None for row in network.rows[:10] for p in row.parameters()} == {True}
    assert {p.grad is None for row in network.rows[10:] for p in row.parameters()} == {False}
    assert not any(row.training for row in network.rows[:10])
    assert all(row.training for row in network.rows[10:])


def test_a_stage_ends_with_the_last_row_of_its_reduction() -> None:
    spec = find("mobilenet_v2")
    placed = list(spec.placed())
    counts = [frozen_rows(spec, str(stages)) for stages in range(1, 6)]
    assert [placed[count - 1].reduction for count in counts] == [2, 4, 8, 16, 32]
    assert all(count == len(placed) or placed[count].reduction > placed[count - 1].reduction for count in counts)
    assert frozen_rows(spec, "none") == 0
    assert frozen_rows(spec, "backbone") == counts[-1] == len(placed)


@pytest.mark.parametrize("freeze", ["rows:99", "6"])
def test_freezing_more_than_there_is_is_refused(freeze: str) -> None:
    with pytest.raises(RecipeError, match=f"freeze = {freeze}"):
        frozen_rows(find("mobilenet_v2"), freeze)


@pytest.mark.parametrize("freeze", ["half", "rows:0", "0", "rows:", "-1"])
def test_what_cannot_be_frozen_is_no_recipe(freeze: str) -> None:
    with pytest.raises(RecipeError, match="freeze"):
        Recipe(epochs=1.0, freeze=freeze)


def test_a_number_of_stages_may_stand_in_a_file_as_a_number() -> None:
    assert with_settings(Recipe(epochs=1.0), {"freeze": 3}).freeze == "3"


def test_rates_fall_by_a_factor_for_each_row_further_from_the_head() -> None:
    network = build(compose("mobilenet_v1", alpha=0.1, resolution=32, stride="small", classes=2))
    optimizer = make_optimizer(network, Recipe(epochs=1.0, optimizer="sgd", layer_decay=0.5))
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales[id(network.head.classifier.weight)] == 1.0
    for place, row in enumerate(reversed(network.rows)):
        assert {scales[id(p)] for p in row.parameters()} == {0.5 ** (place + 1)}
    assert len(scales) == len(list(network.parameters()))


def test_layer_decay_moves_the_stem_less_than_the_head(taught: Bundle, colours: Dataset, tmp_path: Path) -> None:
    def moved(out: Path, **changes: object) -> tuple[float, float, float]:
        recipe = with_settings(QUICK, {"ema": 0.0, "lr": 0.1, "clip": 0.0, **changes})
        outcome = train_run(taught, colours, recipe, out=out)
        stem, head = (
            float(np.abs(outcome.last.tensors[name] - taught.tensors[name]).max())
            for name in ("rows.0.conv.conv.weight", "head.classifier.weight")
        )
        return stem, head, outcome.rows[0].lr

    plain, decayed = moved(tmp_path / "plain"), moved(tmp_path / "decayed", layer_decay=0.1)
    assert decayed[0] < 0.05 * plain[0]
    assert decayed[1] > 0.3 * plain[1]
    assert decayed[2] == plain[2]  # results tell the rate of the head
