"""One training, then slices of it: each a bundle like any other."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch.func import functional_call

from making import patches, settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm, compose, find
from mobilenets.arch.narrower import narrower
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.compress.elastic import grid_widths, measure_grid, policy_for, train_elastic
from mobilenets.compress.front import GridPoint, best_of, draw_front, grid_csv
from mobilenets.compress.slice import policy_of, slice_bundle, sliced_tensors
from mobilenets.data import Dataset, open_dataset, prepared
from mobilenets.errors import RecipeError, UsageError
from mobilenets.nets import build, load_tensors
from mobilenets.nets.nested import hollow, places_in
from mobilenets.train import Recipe
from mobilenets.train.elastic_policy import ElasticPolicy
from mobilenets.train.loader import normalise
from mobilenets.train.validate import bundle_logits, validate_bundle

FAMILIES = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_hybrid_medium",
)


def table() -> ArchSpec:
    return ArchSpec(
        name="mine",
        paper="none",
        rows=(ConvRow(out=32, stride=2), BottleneckRow(out=32, expanded=64), ConvRow(out=64, kernel=1)),
        head=ClassifierHead(classes=4, dropout=0.0),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=16,
    )


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """160 images of 16 pixels: which quarter is the brightest."""
    root = tmp_path_factory.mktemp("quarters")
    pixels = patches(160, 16)
    corners = pixels[:, 4::8, 4::8].mean(axis=3).reshape(160, 4).argmax(axis=1)
    for number, (image, corner) in enumerate(zip(pixels, corners.tolist(), strict=True)):
        folder = root / f"class {corner}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return open_dataset(root)


@pytest.fixture(scope="module")
def trained(quarters: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an elastic training."""
    out = tmp_path_factory.mktemp("run") / "elastic"
    policy = policy_for("0.25..1.0", (12, 16))
    recipe = Recipe(
        epochs=60.0, batch_size=16, lr=1.5, mirror=False, crop_padding=0.0, label_smoothing=0.0, precision="fp32"
    )
    outcome = train_elastic(table(), quarters, recipe, policy, out=out, device="cpu")
    assert outcome.training.finished
    return out


@pytest.fixture(scope="module")
def wide(trained: Path) -> Bundle:
    return read_bundle(trained / "last")


def as_elastic(bundle: Bundle, policy: ElasticPolicy) -> Bundle:
    told = {"step": "train", "recipe": msgspec.to_builtins(Recipe(epochs=1.0)), "elastic": msgspec.to_builtins(policy)}
    return replace(bundle, history=(told,))


def adding(spec: ArchSpec) -> dict[str, dict[str, np.ndarray]]:
    """What the widths 0.25 and 0.5 add: noise."""
    rng = np.random.default_rng(0)
    return {
        f"{width:g}": {
            name: rng.normal(size=tuple(parameter.shape)).astype(np.float32)
            for name, parameter in hollow(narrower(spec, width)).named_parameters()
        }
        for width in (0.25, 0.5)
    }


def test_the_slice_at_full_width_is_the_bundle_itself(wide: Bundle, quarters: Dataset) -> None:
    assert slice_bundle(wide, alpha=1.0, dataset=quarters) is wide


def test_a_slice_is_a_bundle_like_any_other_and_its_history_tells(
    wide: Bundle, quarters: Dataset, tmp_path: Path
) -> None:
    made = slice_bundle(wide, alpha=0.5, resolution=12, dataset=quarters, device="cpu")
    made.write(tmp_path / "slice")
    again = read_bundle(tmp_path / "slice")
    assert again.spec == narrower(wide.spec, 0.5, resolution=12)
    assert (again.spec.name, again.preprocess.resolution) == ("mine_0.5_12", 12)
    assert {name: t.shape for name, t in again.tensors.items()} == {
        name: tuple(t.shape) for name, t in build(again.spec).state_dict().items() if "num_batches" not in name
    }
    last = again.history[-1]
    assert (last["step"], last["digest"], last["alpha"], last["resolution"]) == ("slice", wide.digest, 0.5, 12)
    assert last["recalibration"] == {"images": len(quarters.split("train")), "data": quarters.digest}


def test_a_slice_of_a_training_that_was_stopped_while_the_widest_learned_alone_is_refused(
    wide: Bundle, quarters: Dataset
) -> None:
    bundle = as_elastic(wide, ElasticPolicy(narrowest=0.25, alone=0.5))
    stopped, later = (replace(bundle, history=({**bundle.history[0], "done": done},)) for done in (0.4, 0.6))
    with pytest.raises(UsageError, match=r"was stopped after 40%, when only the widest"):
        slice_bundle(stopped, alpha=0.5, dataset=quarters, device="cpu")
    assert slice_bundle(stopped, alpha=1.0, dataset=quarters) is stopped
    assert slice_bundle(later, alpha=0.5, dataset=quarters, device="cpu").spec.name == "mine_0.5"


@pytest.mark.parametrize("base", FAMILIES)
def test_a_slice_answers_like_the_wide_network_run_with_its_leading_channels(base: str, quarters: Dataset) -> None:
    spec = compose(base, alpha=0.5, resolution=32, classes=4)
    bundle = as_elastic(settled_bundle(spec), ElasticPolicy(narrowest=0.25, widest=0.5))
    made = slice_bundle(bundle, alpha=0.35, dataset=quarters, device="cpu")
    assert made.spec.name == f"{base}_0.35_32"
    weights = {name: torch.from_numpy(np.array(t)) for name, t in bundle.tensors.items()}
    own = {name: weights[name][place] for name, place in places_in(spec, made.spec).items()}
    statistics = {n: torch.from_numpy(np.array(t)) for n, t in made.tensors.items() if ".running_" in n}
    counters = {n: torch.tensor(1) for n in hollow(made.spec).state_dict() if n.endswith("num_batches_tracked")}
    images = torch.randn(2, 3, 32, 32)
    network = build(made.spec).eval()
    load_tensors(network, made.tensors)
    with torch.no_grad():
        wanted = functional_call(hollow(made.spec).eval(), {**own, **statistics, **counters}, (images,))
        torch.testing.assert_close(network(images), wanted)
        # and the statistics are other ones than those the leading channels had in the wide network
        before = build(made.spec).eval()
        load_tensors(before, sliced_tensors(bundle, made.spec, alpha=0.35))
        assert not torch.allclose(before(images), wanted, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("alpha", "whose"), [(0.25, "0.25"), (0.4, "0.25"), (0.5, "0.5"), (0.8, "0.5"), (1.0, None)])
def test_a_slice_holds_what_its_width_or_the_next_narrower_one_adds(
    alpha: float, whose: str | None, quarters: Dataset, tmp_path: Path
) -> None:
    plain = as_elastic(settled_bundle(table()), ElasticPolicy(narrowest=0.25, inner=(0.5,), resolutions=(12, 16)))
    own = adding(plain.spec)
    replace(plain, own=own).write(tmp_path / "elastic")
    bundle = read_bundle(tmp_path / "elastic")
    assert bundle.digest != plain.digest
    made = slice_bundle(bundle, alpha=alpha, resolution=12, dataset=quarters, device="cpu")
    shared = slice_bundle(plain, alpha=alpha, resolution=12, dataset=quarters, device="cpu")
    assert made.own == {}
    for name in dict(build(made.spec).named_parameters()):
        wanted = shared.tensors[name].copy()
        if whose is not None:
            added = own[whose][name]
            wanted[tuple(map(slice, added.shape))] += added
        np.testing.assert_array_equal(made.tensors[name], wanted)


def test_what_widths_add_is_left_behind_by_whatever_makes_other_tensors() -> None:
    plain = as_elastic(settled_bundle(table()), ElasticPolicy(narrowest=0.25, inner=(0.5,)))
    bundle = replace(plain, own={"0.25": {"rows.0.conv.weight": np.ones((8, 3, 3, 3), np.float32)}})
    assert bundle.after("other", plain.tensors).own == {}


@pytest.mark.parametrize("same", [True, False], ids=["the same classes", "other classes"])
def test_a_training_from_an_elastic_bundle_goes_on_from_what_widths_add(
    same: bool, quarters: Dataset, tmp_path: Path
) -> None:
    plain = settled_bundle(table())
    labels = quarters.labels if same else ("a", "b", "c", "d")
    start = replace(plain, labels=labels, own=adding(plain.spec))
    recipe = Recipe(epochs=0.2, batch_size=16, optimizer="sgd", lr=1e-12, precision="fp32")
    policy = policy_for("0.25,0.5,0.75,1.0")
    made = train_elastic(start, quarters, recipe, policy, out=tmp_path / "run", device="cpu").training.last
    for width, added in made.own.items():
        for name, tensor in added.items():
            anew = width == "0.75" or (not same and name.startswith("head.classifier."))
            wanted = np.zeros_like(tensor) if anew else start.own[width][name]
            np.testing.assert_allclose(tensor, wanted, atol=1e-6)


def test_norms_hold_the_statistics_of_the_slices_own_activations(wide: Bundle, quarters: Dataset) -> None:
    made = slice_bundle(wide, alpha=0.5, dataset=quarters, device="cpu")
    network = build(made.spec).eval()
    load_tensors(network, made.tensors)
    seen: list[torch.Tensor] = []
    network.rows[1].expand.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = prepared(quarters, "train", made.preprocess).images
    with torch.no_grad():
        network(normalise(torch.from_numpy(np.array(images)), made.preprocess))
    inputs = seen[0]
    norm = network.rows[1].expand.norm
    # The recipe of the training changes no pixel, so these are the images that recalibration saw.
    torch.testing.assert_close(norm.running_mean, inputs.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.running_var, inputs.var(dim=(0, 2, 3)), rtol=1e-2, atol=1e-3)


def test_every_width_and_resolution_learned(wide: Bundle, quarters: Dataset) -> None:
    for alpha, side in ((0.25, 12), (0.25, 16), (0.6, 12), (0.8, 16)):
        made = slice_bundle(wide, alpha=alpha, resolution=side, dataset=quarters, device="cpu")
        assert validate_bundle(made, quarters, split="train").top1 > 0.75  # by chance 0.3


def test_the_run_leaves_its_grid_as_table_and_picture(trained: Path, quarters: Dataset) -> None:
    rows = list(csv.DictReader((trained / "grid.csv").read_text().splitlines()))
    assert len(rows) == 7 * 2
    assert [msgspec.convert(entry, GridPoint) for entry in json.loads((trained / "grid.json").read_text())]
    assert (trained / "front.png").read_bytes()[:4] == b"\x89PNG"
    best = read_bundle(trained / "best")
    (point,) = measure_grid(best, quarters, widths=(0.25,), resolutions=(12,), device="cpu")
    row = next(row for row in rows if (row["alpha"], row["resolution"]) == ("0.25", "12"))
    assert float(row["top1"]) == pytest.approx(point.top1, abs=1e-4)
    assert int(row["mult_adds"]) == point.mult_adds
    made = slice_bundle(best, alpha=0.25, resolution=12, dataset=quarters, device="cpu")
    images = prepared(quarters, "val", made.preprocess)
    right = (bundle_logits(made, images.images, device="cpu").argmax(1) == images.targets).mean()
    assert point.top1 == pytest.approx(100 * right)
    assert point.top1_low <= point.top1 <= point.top1_high


@pytest.mark.parametrize(
    ("alpha", "resolution", "told"),
    [(0.2, None, "0.25 to 1, for which"), (1.1, None, "0.25 to 1"), (0.5, 20, "12 to 16 pixels"), (0.5, 8, "12 to 16")],
)
def test_what_was_not_trained_is_not_sliced(
    alpha: float, resolution: int | None, told: str, wide: Bundle, quarters: Dataset
) -> None:
    with pytest.raises(UsageError, match=told):
        slice_bundle(wide, alpha=alpha, resolution=resolution, dataset=quarters)


def test_only_an_elastic_bundle_is_sliced(wide: Bundle, quarters: Dataset) -> None:
    plain = settled_bundle(table())
    with pytest.raises(UsageError, match="is not elastic: its history is empty"):
        slice_bundle(plain, alpha=0.5, dataset=quarters)
    made = slice_bundle(wide, alpha=0.5, dataset=quarters, device="cpu")
    with pytest.raises(UsageError, match="it is a slice already"):
        slice_bundle(made, alpha=0.25, dataset=quarters)
    later = replace(wide, history=(*wide.history, {"step": "train"}))
    with pytest.raises(UsageError, match="train, then train"):
        policy_of(later)


def test_images_of_other_classes_give_no_statistics(wide: Bundle, quarters: Dataset) -> None:
    other = replace(wide, labels=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="classes that the model lacks"):
        slice_bundle(other, alpha=0.5, dataset=quarters)


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ("0.25..1.0", ElasticPolicy(narrowest=0.25)),
        ("0.5,0.25,1.4", ElasticPolicy(narrowest=0.25, widest=1.4, inner=(0.5,))),
        ((0.5, 1.0), ElasticPolicy(narrowest=0.5, inner=())),
    ],
)
def test_widths_are_a_range_or_a_list(widths: object, expected: ElasticPolicy) -> None:
    assert policy_for(widths) == expected


@pytest.mark.parametrize("widths", ["1.0", "0.25..", "a..b", "0.5..0.5", "", "0.25;1.0"])
def test_widths_that_are_neither_are_refused(widths: str) -> None:
    with pytest.raises(UsageError, match="a range like"):
        policy_for(widths)


def test_a_range_the_wrong_way_round_is_a_range_and_zero_is_refused() -> None:
    assert policy_for("1.0..0.25") == policy_for("0.25..1.0")
    with pytest.raises(RecipeError, match="narrowest"):
        policy_for("0..1")


def test_a_grid_has_the_ends_and_equal_steps_or_the_list() -> None:
    assert grid_widths(policy_for("0.25..1.0")) == (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    assert grid_widths(policy_for("0.25,0.5,0.75,1.0")) == (0.25, 0.5, 0.75, 1.0)


def point(mult_adds: int, top1: float) -> GridPoint:
    return GridPoint(
        model="m",
        alpha=0.5,
        resolution=24,
        mult_adds=mult_adds,
        parameters=1,
        top1=top1,
        top1_low=top1 - 1,
        top1_high=top1 + 1,
        n=100,
    )


def test_the_front_is_who_nobody_beats_at_that_price() -> None:
    points = [point(3, 80.0), point(1, 60.0), point(2, 59.0), point(3, 70.0), point(4, 80.0)]
    assert [(p.mult_adds, p.top1) for p in best_of(points)] == [(1, 60.0), (3, 80.0)]
    assert len(grid_csv(points).splitlines()) == 6
    assert draw_front(points, title="t")[:4] == b"\x89PNG"
    with pytest.raises(UsageError, match="no points"):
        draw_front([], title="t")


def test_an_elastic_name_that_says_its_width_is_the_widest(quarters: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1.0, batch_size=128, precision="fp32")
    policy = policy_for((0.1, 0.2))
    outcome = train_elastic("mobilenet_v3_small_0.2_32", quarters, recipe, policy, out=tmp_path, device="cpu")
    assert outcome.training.best.spec.head.classes == 4
    assert outcome.training.best.spec.name == find("mobilenet_v3_small_0.2_32").name
    assert [p.alpha for p in outcome.grid] == [0.1, 0.2]
