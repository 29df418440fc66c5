"""Pruning a bundle: an ordinary bundle comes out, smaller in every way that is counted."""

from dataclasses import replace

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from compress.tables import TABLES
from making import patches, settled_bundle
from mobilenets.arch import CATALOG, ArchSpec, compose, cost
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.compress import Limits, Target, cut, prune, widths
from mobilenets.errors import BudgetError, UsageError
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx
from mobilenets.nets import build, load_tensors
from mobilenets.train import Recipe, forward_all
from mobilenets.train.loader import Batches

LIMITS = Limits(divisor=2, minimum=2)
HALF = Target(of="mult_adds", most=0.5, relative=True)


class Pictures:
    """Forty training images."""

    uniform = patches(40, 8)
    targets = np.arange(40, dtype=np.int64) % 5

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


def batches(bundle: Bundle) -> Batches:
    return Batches(Pictures(), Recipe(epochs=1.0, batch_size=20, mirror=False, crop_padding=0.0), bundle.preprocess)


def logits(bundle: Bundle) -> np.ndarray:
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    return forward_all(network, Pictures.uniform, bundle.preprocess, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("importance", ["l1", "l2", "norm", "taylor"])
@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_what_comes_out_is_a_smaller_bundle_like_any_other(spec: ArchSpec, importance: str, tmp_path) -> None:
    bundle = settled_bundle(spec)
    made = prune(bundle, HALF, importance=importance, limits=LIMITS, batches=batches(bundle), device="cpu")
    assert cost(made.spec).mult_adds <= 0.5 * cost(spec).mult_adds
    assert made.spec.name == "table_pruned"
    assert (made.labels, made.preprocess, made.task) == (bundle.labels, bundle.preprocess, bundle.task)
    entry = made.history[-1]
    assert (entry["step"], entry["digest"], entry["importance"]) == ("prune", bundle.digest, importance)
    assert entry["after"]["mult_adds"] == cost(made.spec).mult_adds
    bundle.write(tmp_path / "before")
    made.write(tmp_path / "after")
    again = read_bundle(tmp_path / "after")
    assert again.digest == made.digest
    assert np.isfinite(logits(again)).all()
    sizes = [(tmp_path / at / "weights.safetensors").stat().st_size for at in ("before", "after")]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    "spec",
    [
        *TABLES.values(),
        *(compose(base, alpha=0.25, resolution=32, classes=5) for base in sorted(CATALOG) if "paper" not in base),
    ],
    ids=lambda spec: spec.name,
)
def test_the_exported_file_of_a_pruned_network_answers_like_it(spec: ArchSpec) -> None:
    bundle = settled_bundle(spec)
    made = prune(bundle, Target(of="mult_adds", most=0.6, relative=True), limits=LIMITS)
    pixels = patches(3, spec.resolution)
    network = build(made.spec)
    load_tensors(network, made.tensors)
    wanted = forward_all(network, pixels, made.preprocess, device=torch.device("cpu"), dtype=torch.float32)
    model = to_onnx(made.spec, made.tensors, made.preprocess)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.run(None, {INPUT_NAME: pixels})[0]
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("of", ["mult_adds", "parameters", "size_mb"])
def test_every_counted_target_is_kept_absolute_or_as_a_share(of: str) -> None:
    bundle = settled_bundle(TABLES["universal"])
    whole = getattr(cost(bundle.spec), of)
    for target in (Target(of=of, most=0.6, relative=True), Target(of=of, most=0.6 * whole)):
        made = prune(bundle, target, limits=LIMITS)
        assert 0.4 * whole < getattr(cost(made.spec), of) <= 0.6 * whole


def test_dead_channels_are_found_and_the_answers_stay() -> None:
    bundle = settled_bundle(TABLES["squeeze-and-excite"])
    dead = {"rows.2.expanded": [1, 4, 9], "rows.3.expanded": [0, 2, 15], "head.hidden": [3]}
    tensors = {name: tensor.copy() for name, tensor in bundle.tensors.items()}
    for width in widths(bundle.spec):
        for place in width.places:
            if width.name in dead and not place.tensor.endswith("running_var"):
                np.moveaxis(tensors[place.tensor], place.axis, 0)[dead[width.name]] = 0.0
    crippled = replace(bundle, tensors=tensors)
    alive = {w.name: np.setdiff1d(np.arange(w.size), dead[w.name]) for w in widths(bundle.spec) if w.name in dead}
    bound = cost(cut(bundle.spec, tensors, alive)[0]).mult_adds
    free = Limits(divisor=1, minimum=1, least_share=0.0)
    for importance in ("l1", "l2", "taylor"):
        images = batches(bundle) if importance == "taylor" else None
        made = prune(crippled, Target(of="mult_adds", most=bound), importance=importance, limits=free, batches=images)
        sizes = {w.name: (w.size, now.size) for w, now in zip(widths(bundle.spec), widths(made.spec), strict=True)}
        assert all(sizes[name][0] - sizes[name][1] == len(units) for name, units in dead.items())
        if images is None:  # images move the statistics of the norms, and show that some other units never answer
            assert all(before == after for name, (before, after) in sizes.items() if name not in dead)
            np.testing.assert_allclose(logits(made), logits(crippled), atol=1e-4)


def test_images_give_the_norms_the_statistics_of_the_narrow_network() -> None:
    bundle = settled_bundle(TABLES["bottleneck"])
    plain = prune(bundle, HALF, limits=LIMITS)
    fitted = prune(bundle, HALF, limits=LIMITS, batches=batches(bundle), device="cpu")
    assert (plain.history[-1]["recalibration_images"], fitted.history[-1]["recalibration_images"]) == (0, 40)
    assert fitted.spec == plain.spec
    inputs: list[torch.Tensor] = []
    network = build(fitted.spec)
    load_tensors(network, fitted.tensors)
    network.rows[-1].conv.norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    forward_all(network, Pictures.uniform, fitted.preprocess, device=torch.device("cpu"), dtype=torch.float32)
    means = torch.cat(inputs).mean(dim=(0, 2, 3)).numpy()
    spread = torch.cat(inputs).std(dim=(0, 2, 3)).numpy()
    name = f"rows.{len(bundle.spec.rows) - 1}.conv.norm.running_mean"
    both = {"fitted": fitted, "plain": plain}
    off = {which: np.abs(b.tensors[name] - means).max() / spread.mean() for which, b in both.items()}
    assert off["fitted"] < 0.3 * off["plain"], off


def test_norms_that_came_folded_are_settled_before_statistics_are_taken_anew() -> None:
    whole = settled_bundle(TABLES["bottleneck"])
    folded = {name: tensor.copy() for name, tensor in whole.tensors.items()}
    for name in [name for name in folded if name.endswith("running_var")]:
        norm = name.removesuffix(".running_var")
        conv = norm.removesuffix("norm") + "conv.weight"
        scale = folded[f"{norm}.weight"] / np.sqrt(folded[name] + whole.spec.norm.eps)
        folded[conv] = folded[conv] * scale[:, None, None, None]
        folded[f"{norm}.bias"] = folded[f"{norm}.bias"] - scale * folded[f"{norm}.running_mean"]
        folded[f"{norm}.weight"] = np.ones_like(scale)
        folded[f"{norm}.running_mean"] = np.zeros_like(scale)
        folded[name] = np.full_like(scale, 1 - whole.spec.norm.eps)
    imported = replace(whole, tensors=folded, history=({"step": "import", "digest": None, "norms": "folded"},))
    np.testing.assert_allclose(logits(imported), logits(whole), atol=1e-4)
    gentle = Target(of="mult_adds", most=0.97, relative=True)
    ways = [prune(b, gentle, importance="l2", limits=LIMITS, batches=batches(b)) for b in (whole, imported)]
    assert ways[0].spec == ways[1].spec
    assert np.abs(logits(ways[1]) - logits(ways[0])).mean() < 0.1 * np.std(logits(whole))
    assert ways[1].history[-1]["digest"] == imported.digest


class Clock:
    """A machine on which time goes with the root of the products; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[ArchSpec] = []

    def __call__(self, spec: ArchSpec) -> float:
        self.asked.append(spec)
        return cost(spec).mult_adds ** 0.5 / 100


@pytest.mark.parametrize("target", [Target(of="latency_ms", most=0.7, relative=True), None])
def test_a_latency_is_kept_by_measuring(target: Target | None) -> None:
    bundle, clock = settled_bundle(TABLES["universal"]), Clock()
    whole = clock(bundle.spec)
    chosen = target or Target(of="latency_ms", most=0.7 * whole)
    made = prune(bundle, chosen, limits=LIMITS, measure=clock)
    assert 0.6 * whole < clock(made.spec) <= 0.7 * whole
    assert made.history[-1]["latency_ms"] == {"before": whole, "after": clock(made.spec), "most": 0.7 * whole}
    assert len(clock.asked) < 14


def test_what_cannot_be_is_refused() -> None:
    bundle = settled_bundle(TABLES["bottleneck"])
    with pytest.raises(UsageError, match="no way to measure"):
        prune(bundle, Target(of="latency_ms", most=1.0))
    with pytest.raises(UsageError, match="more than 99"):
        prune(bundle, Target(of="latency_ms", most=99.0), measure=Clock())
    with pytest.raises(BudgetError, match="the fastest of the networks that were tried"):
        prune(bundle, Target(of="latency_ms", most=0.01, relative=True), measure=Clock())
    with pytest.raises(BudgetError, match="every width at its least"):
        prune(bundle, Target(of="mult_adds", most=0.01, relative=True))
    with pytest.raises(UsageError, match="by taylor, and no images"):
        prune(bundle, HALF, importance="taylor")
    unfinished = replace(bundle, history=({"step": "import", "classifier": "new"},))
    with pytest.raises(UsageError, match="classifier was never trained"):
        prune(unfinished, HALF, importance="taylor", batches=batches(bundle))
    for wrong in ({"most": 1.0, "relative": True}, {"most": 0.0}, {"most": -1.0}):
        with pytest.raises(UsageError, match="mult_adds = "):
            Target(of="mult_adds", **wrong)


def test_pruning_twice_is_told_twice_and_named_once() -> None:
    bundle = settled_bundle(TABLES["bottleneck"])
    once = prune(bundle, Target(of="mult_adds", most=0.8, relative=True), limits=LIMITS)
    twice = prune(once, Target(of="mult_adds", most=0.8, relative=True), limits=LIMITS)
    assert twice.spec.name == "table_pruned"
    assert [entry["digest"] for entry in twice.history] == [bundle.digest, once.digest]
    assert msgspec.json.decode(msgspec.json.encode(twice.history[-1]))["limits"]["divisor"] == 2
