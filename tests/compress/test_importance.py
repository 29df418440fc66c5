"""What ranks channels: each measure against a computation of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compress.tables import TABLES
from making import patches, settled_bundle
from mobilenets.arch import ArchSpec
from mobilenets.bundle import Bundle
from mobilenets.compress import cut, taylor_scores, weight_scores, widths
from mobilenets.errors import UsageError
from mobilenets.nets import build, load_tensors
from mobilenets.train.loader import normalise

CPU = torch.device("cpu")


def batch_of(bundle: Bundle, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(patches(count, bundle.spec.resolution, bundle.spec.channels))
    return normalise(images, bundle.preprocess), torch.arange(count) % 5


@pytest.mark.parametrize("importance", ["l1", "l2", "norm"])
@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_scores_are_shares_of_every_width(spec: ArchSpec, importance: str) -> None:
    scores = weight_scores(settled_bundle(spec), importance)
    assert {name: score.shape for name, score in scores.items()} == {w.name: (w.size,) for w in widths(spec)}
    for score in scores.values():
        assert score.min() >= 0
        assert score.sum() == pytest.approx(1)


def test_scores_move_with_their_channels() -> None:
    for spec in TABLES.values():
        bundle = settled_bundle(spec)
        rng = np.random.default_rng(0)
        order = {width.name: rng.permutation(width.size) for width in widths(spec)}
        shuffled = replace(bundle, tensors=cut(spec, bundle.tensors, order)[1])
        for importance in ("l1", "l2", "norm"):
            before, after = weight_scores(bundle, importance), weight_scores(shuffled, importance)
            for name, units in order.items():
                np.testing.assert_allclose(after[name], before[name][units], rtol=1e-6)
        before, after = (taylor_scores(b, [batch_of(b)], device=CPU) for b in (bundle, shuffled))
        for name, units in order.items():
            np.testing.assert_allclose(after[name], before[name][units], rtol=1e-2, atol=1e-9)


def test_l1_and_l2_are_the_norms_of_folded_filters() -> None:
    spec = TABLES["separable"]
    bundle = settled_bundle(spec)
    t = {name: tensor.astype(np.float64) for name, tensor in bundle.tensors.items()}

    def folded(at: str) -> np.ndarray:
        scale = t[f"{at}.norm.weight"] / np.sqrt(t[f"{at}.norm.running_var"] + spec.norm.eps)
        return t[f"{at}.conv.weight"] * scale[:, None, None, None]

    makes, goes, reads = (folded(f"rows.{at}") for at in ("1.project", "2.depthwise", "2.project"))
    for importance, power in (("l1", 1), ("l2", 2)):
        parts = [
            (np.abs(makes) ** power).sum((1, 2, 3)) ** (1 / power),
            (np.abs(goes) ** power).sum((1, 2, 3)) ** (1 / power),
            (np.abs(reads) ** power).sum((0, 2, 3)) ** (1 / power),
        ]
        wanted = sum(part / part.mean() for part in parts)
        np.testing.assert_allclose(weight_scores(bundle, importance)["rows.1.out"], wanted / wanted.sum(), rtol=1e-9)


def test_a_scale_before_a_norm_changes_no_score() -> None:
    bundle = settled_bundle(TABLES["separable"])
    tensors = dict(bundle.tensors)
    tensors["rows.1.project.conv.weight"] = 8 * tensors["rows.1.project.conv.weight"]
    tensors["rows.1.project.norm.running_mean"] = 8 * tensors["rows.1.project.norm.running_mean"]
    tensors["rows.1.project.norm.running_var"] = 64 * tensors["rows.1.project.norm.running_var"]
    before, after = (weight_scores(b, "l1") for b in (bundle, replace(bundle, tensors=tensors)))
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-2)  # eps does not scale


def test_norm_is_the_scale_of_the_norms_and_l2_where_there_are_none() -> None:
    bundle = settled_bundle(TABLES["squeeze-and-excite"])
    scores = weight_scores(bundle, "norm")
    parts = [np.abs(bundle.tensors[f"rows.2.{at}.norm.weight"]).astype(np.float64) for at in ("expand", "depthwise")]
    wanted = sum(part / part.mean() for part in parts)
    np.testing.assert_allclose(scores["rows.2.expanded"], wanted / wanted.sum(), rtol=1e-9)
    for name in ("rows.2.squeezed", "head.hidden"):
        np.testing.assert_array_equal(scores[name], weight_scores(bundle, "l2")[name])


@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_taylor_is_the_squared_slope_of_the_loss_against_a_gate_on_the_unit(spec: ArchSpec) -> None:
    bundle = settled_bundle(spec)
    images, classes = batch_of(bundle)
    scores = taylor_scores(bundle, [(images, classes)], device=CPU)

    def loss(scale: float, name: str, unit: int) -> float:
        """With everything that reads the unit scaled: float64, by finite differences."""
        tensors = {key: tensor.astype(np.float64) for key, tensor in bundle.tensors.items()}
        (width,) = [width for width in widths(spec) if width.name == name]
        for place in width.places:
            if place.role == "reads":
                ahead = np.moveaxis(tensors[place.tensor], place.axis, 0)
                ahead.reshape(place.times, width.size, place.block, *ahead.shape[1:])[:, unit] *= scale
        network = build(spec)
        load_tensors(network, bundle.tensors)
        network = network.double().eval()
        network.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in tensors.items()}, strict=False)
        with torch.no_grad():
            return float(F.cross_entropy(network(images.double()), classes))

    step = 1e-6
    for width in widths(spec):
        unit = width.size // 2
        slope = (loss(1 + step, width.name, unit) - loss(1 - step, width.name, unit)) / (2 * step)
        assert scores[width.name][unit] == pytest.approx(slope**2, rel=0.02, abs=1e-8), width.name


def test_taylor_averages_squares_over_batches() -> None:
    bundle = settled_bundle(TABLES["bottleneck"])
    images, classes = batch_of(bundle)
    halves = [(images[:4], classes[:4]), (images[4:], classes[4:])]
    both = taylor_scores(bundle, halves, device=CPU)
    alone = [taylor_scores(bundle, [half], device=CPU) for half in halves]
    for name in both:
        np.testing.assert_allclose(both[name], (alone[0][name] + alone[1][name]) / 2)


def test_scores_that_mean_nothing_are_refused() -> None:
    bundle = settled_bundle(TABLES["bottleneck"])
    imported = replace(bundle, history=({"step": "import", "norms": "folded"},))
    with pytest.raises(UsageError, match="came folded"):
        weight_scores(imported, "norm")
    with pytest.raises(UsageError, match="l1, l2 or norm"):
        weight_scores(bundle, "l3")
    with pytest.raises(UsageError, match="no image"):
        taylor_scores(bundle, [], device=CPU)
