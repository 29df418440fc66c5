"""Training for int8: the network that learns is the file that is written, place by place; its ranges stay with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from making import patches, settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm, UniversalRow, compose
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import open_dataset, prepared
from mobilenets.errors import FileFormatError, GateError, SpecError, UsageError
from mobilenets.export import export
from mobilenets.export.gate import reference_logits
from mobilenets.export.images import calibration_images, gate_images
from mobilenets.export.int8 import Range, fake, ranges, starting_ranges, trained_ranges
from mobilenets.export.int8.aware import Int8Aware, int8_aware
from mobilenets.export.int8.fake import Grid, twin_of
from mobilenets.export.int8.model import Model
from mobilenets.export.quantize import quantize
from mobilenets.export.training import Int8Scores, check_scores, train_for_int8
from mobilenets.metrics import top_k_accuracy
from mobilenets.nets import Network, build, load_tensors, tensors_of
from mobilenets.runtime import open_artifact, run_batches
from mobilenets.train import Distillation, EvalPixels, Outcome, Recipe, distil, forward_all, loop, train
from mobilenets.train.elastic import elastic
from mobilenets.train.elastic_policy import ElasticPolicy
from mobilenets.train.loader import normalise
from mobilenets.train.run import train_run

FAMILIES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_small")
CENTRED = (128 / 255,) * 3
IMAGENET = (0.485, 0.456, 0.406)
CPU = torch.device("cpu")


def bundle_of(base: str, *, mean: tuple[float, ...] = CENTRED, **changes: Any) -> Bundle:
    spec = compose(base, alpha=0.25, resolution=32, stride="small", classes=7)
    bundle = settled_bundle(msgspec.structs.replace(spec, **changes))
    return replace(bundle, preprocess=msgspec.structs.replace(bundle.preprocess, mean=mean, std=(0.25, 0.3, 0.2)))


def network_of(bundle: Bundle) -> Network:
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    return network


def twin_of_bundle(bundle: Bundle, start: ranges.Ranges) -> tuple[Grid, Network]:
    network = network_of(bundle)
    grid = Grid(start, network)
    twin = twin_of(network, grid, bundle.preprocess)
    grid.settle(twin)
    return grid, twin.eval()


def logits(network: nn.Module, bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    return forward_all(network, pixels, bundle.preprocess, device=CPU, dtype=torch.float32)


class Bytes:
    """What an int8 file holds at its places, and with which scales."""

    def __init__(self, model: onnx.ModelProto, pixels: np.ndarray) -> None:
        read = Model(model)
        made = {
            node.output[0].removesuffix("_QuantizeLinear_Output"): node
            for node in read.nodes
            if node.op_type == "QuantizeLinear"
        }
        self.scales = {name: tuple(read.constants[each] for each in node.input[1:3]) for name, node in made.items()}
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        for node in made.values():
            shown.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, None))
        session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
        self.logits, *rest = session.run(None, {"pixels": pixels})
        self._bytes = dict(zip(made, rest, strict=True))

    def at(self, name: str, like: Tensor) -> np.ndarray | None:
        """The bytes of a value (N, C, ...); None where the file holds them regrouped only."""
        found = self._bytes.get(f"{name}.planes", self._bytes[name])
        return found[:, : like.shape[1]] if found.shape[2:] == like.shape[2:] else None


@pytest.mark.parametrize(
    ("base", "mean"),
    [*((base, CENTRED) for base in FAMILIES), ("mobilenet_v1", (0.5,) * 3), ("mobilenet_v1", IMAGENET)],
)
def test_at_every_place_the_twin_rounds_to_the_bytes_of_the_file(base: str, mean: tuple[float, ...]) -> None:
    """Each place is given what the file holds before it: else the first rounding that falls the other way spreads."""
    bundle, pixels = bundle_of(base, mean=mean), patches(8, 32)
    start = starting_ranges(bundle, pixels)
    file = Bytes(quantize(bundle, pixels, calibration="minmax").model, pixels)
    grid, twin = twin_of_bundle(bundle, start)
    seen: dict[str, tuple[float, float]] = {}

    def compare(place: nn.Module, _: object, output: Tensor) -> Tensor | None:
        assert isinstance(place, fake._Place)
        name, (step, zero) = place._name, file.scales[place._name]
        ours = grid.swish_scale(name) if place._swish else grid.scale(name)
        assert int(ours[1]) == int(zero)
        assert float(ours[0]) == pytest.approx(float(step), rel=1e-6)
        held = file.at(name, output)
        if held is None:
            return None
        off = np.abs(np.rint(output.numpy() / step) + int(zero) - held.astype(np.float64))
        seen[name] = float(off.max()), float((off > 0).mean())
        return torch.from_numpy((held.astype(np.float32) - np.float32(zero)) * step)

    for part in twin.modules():
        if isinstance(part, fake._Place):
            part.register_forward_hook(compare)
    answered = logits(twin, bundle, pixels)
    assert len(seen) >= len(start) - 1  # of a first hard-swish the file holds the input regrouped
    # Of a first hard-swish the input was not put right, and it is up to 1.5 times as steep as a line.
    assert max(off for name, (off, _) in seen.items() if name != "rows.0.conv.hard_swish") <= 1, seen
    assert seen.get("rows.0.conv.hard_swish", (0, 0))[0] <= 2, seen
    assert max(share for _, share in seen.values()) < 0.02, seen  # sums in another order, biases rounded too
    np.testing.assert_allclose(answered, file.logits, rtol=0, atol=2e-3 * float(np.abs(file.logits).max()))


@pytest.mark.parametrize("base", FAMILIES)
def test_the_twin_answers_like_the_file_and_not_like_the_float_network(base: str) -> None:
    whole = compose(base, alpha=0.25, resolution=32, stride="small", classes=7)
    bundle, pixels = bundle_of(base, rows=whole.rows[:5]), patches(64, 32)
    _, twin = twin_of_bundle(bundle, starting_ranges(bundle, pixels))
    file = Bytes(quantize(bundle, pixels, calibration="minmax").model, pixels).logits
    ours, exact = logits(twin, bundle, pixels), reference_logits(bundle, pixels)
    assert (ours.argmax(1) == file.argmax(1)).mean() >= 0.9  # untrained logits lie close together
    assert np.square(ours - file).mean() < 0.3 * np.square(exact - file).mean()
    # One image in 64 may hold a number halfway between two bytes, which processors round otherwise.
    assert np.sort(np.abs(ours - file).max(1))[-2] < 0.25 * exact.std(axis=0).max()


def test_a_twin_shares_weights_and_statistics_and_leaves_the_network_as_it_was() -> None:
    bundle, pixels = bundle_of("mobilenet_v3_small"), patches(8, 32)
    network = network_of(bundle).train()
    grid = Grid(starting_ranges(bundle, pixels), network)
    twin = twin_of(network, grid, bundle.preprocess).train()
    before = tensors_of(network)
    images = normalise(torch.from_numpy(pixels), bundle.preprocess)
    twin(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert {name: value.tobytes() for name, value in tensors_of(network).items()} == {
        name: value.tobytes() for name, value in before.items()
    }
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), network_of(bundle).eval()(images))


def test_gradients_are_nearly_those_of_the_float_network_in_evaluation() -> None:
    whole = compose("mobilenet_v2", alpha=0.25, resolution=32, stride="small", classes=7)
    bundle, pixels = bundle_of("mobilenet_v2", rows=whole.rows[:3]), patches(16, 32)
    images = normalise(torch.from_numpy(pixels), bundle.preprocess)
    plain, network = network_of(bundle).eval(), network_of(bundle)
    twin = twin_of(network, Grid(starting_ranges(bundle, pixels), network), bundle.preprocess).eval()
    for one in (plain, twin):
        one(images).square().mean().backward()
    for (name, wanted), given in zip(plain.named_parameters(), network.parameters(), strict=True):
        assert wanted.grad is not None
        assert given.grad is not None
        alike = torch.nn.functional.cosine_similarity(wanted.grad.flatten(), given.grad.flatten(), dim=0)
        assert float(alike) > 0.98, name
        assert float(given.grad.norm()) == pytest.approx(float(wanted.grad.norm()), rel=0.15), name


def test_ranges_follow_in_training_and_stay_in_evaluation() -> None:
    bundle, pixels = bundle_of("mobilenet_v1"), patches(16, 32)
    start = {name: Range(each.low, 2 * each.high) for name, each in starting_ranges(bundle, pixels).items()}
    network = network_of(bundle)
    grid = Grid(start, network)
    twin = twin_of(network, grid, bundle.preprocess)
    images = normalise(torch.from_numpy(pixels), bundle.preprocess)
    with torch.no_grad():
        twin.eval()(images)
        assert grid.ranges() == pytest.approx(
            {k: Range(*np.float32([v.low, v.high]).tolist()) for k, v in start.items()}
        )
        twin.train()(images)
    name = "head.pool"
    seen = start[name].high / 2
    assert grid.ranges()[name].high == pytest.approx(start[name].high - fake.FOLLOWS * seen, rel=1e-2)


def test_ranges_to_begin_with_are_four_batches_among_the_first_hundred() -> None:
    """Else one picture in five hundred, that reaches further than all others, would set the bytes for a whole run."""
    grid = Grid({"value": Range(-1000.0, 1000.0)}, nn.Module())
    for step in range(96):
        grid.at(step)
        grid.follow("value", torch.tensor([-10.0, 0.0, 20.0]))
    (found,) = grid.ranges().values()
    assert found.high == pytest.approx((4 * 1000 + 96 * 20) / 100, rel=1e-4)
    assert found.low == pytest.approx(-(4 * 1000 + 96 * 10) / 100, rel=1e-4)
    grid.at(5000)
    grid.follow("value", torch.tensor([0.0, 100.0 + found.high]))
    assert grid.ranges()["value"].high == pytest.approx(found.high + 1.0, rel=1e-4)


@pytest.mark.parametrize("high", [0.5, 2.0, 4.0, 7.3, 11.7, 60.0, 1000.0])
@pytest.mark.parametrize("low", [-4.1, -0.3, 0.0, 0.2])
def test_scales_on_the_device_are_those_of_the_file(low: float, high: float) -> None:
    grid = Grid({"value": Range(low, high)}, nn.Module())
    for given, wanted in (
        (grid.scale("value"), ranges.scale_of(Range(low, high))),
        (grid.swish_scale("value"), ranges.swish_scale(Range(low, high))),
    ):
        assert float(given[0]) == pytest.approx(wanted.step, rel=1e-6)
        assert int(given[1]) == wanted.zero


def test_attention_is_refused_by_name() -> None:
    bundle = settled_bundle(compose("mobilenet_v4_hybrid_medium", alpha=0.25, resolution=32, classes=3))
    network = network_of(bundle)
    with pytest.raises(SpecError, match=r"rows\.\d+\S* is (AttentionRowModule|LayerScale)"):
        twin_of(network, Grid({}, network), bundle.preprocess)


@pytest.mark.parametrize("change", ["one missing", "one more"])
def test_a_place_that_only_one_of_file_and_twin_has_is_told(change: str) -> None:
    bundle = bundle_of("mobilenet_v1")
    start = starting_ranges(bundle, patches(4, 32))
    if change == "one missing":
        del start["rows.3.project.relu6"]
    else:
        start["rows.3.other"] = Range(0.0, 1.0)
    network = network_of(bundle)
    with pytest.raises(SpecError, match=r"rows\.3\.(project\.relu6|other)"):
        twin_of(network, Grid(start, network), bundle.preprocess)


# Training


def tiny_spec(head: ClassifierHead | None = None) -> ArchSpec:
    """Hard-swish, squeeze-and-excite, a residual and a universal row."""
    return ArchSpec(
        name="tiny",
        paper="none",
        rows=(
            ConvRow(out=8, stride=2, act="hard_swish"),
            BottleneckRow(out=8, expanded=16, squeezed=8, act="hard_swish"),
            UniversalRow(out=8, expanded=16, start_kernel=3, middle_kernel=3, act="relu"),
        ),
        head=head or ClassifierHead(classes=3),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=16,
    )


class Source:
    """Forty-eight patches in three classes."""

    def __init__(self) -> None:
        self.all = np.ascontiguousarray(patches(48, 16))
        self.uniform = self.all
        self.targets = np.arange(48, dtype=np.int64) % 3

    def pixels(self, index: int) -> np.ndarray:
        return self.all[index]


@pytest.fixture(scope="module")
def begun() -> Bundle:
    bundle = settled_bundle(tiny_spec())
    return replace(bundle, labels=("a", "b", "c"))


def run(out: Path, bundle: Bundle, objective: Callable[..., Any], **changes: Any) -> Outcome:
    settings = {"epochs": 3.0, "batch_size": 16, "lr": 0.05, "precision": "fp32", "recalibrate": 0}
    settings |= changes.pop("recipe", {})
    return train(
        bundle,
        Source(),
        EvalPixels(patches(24, 16), np.arange(24) % 3),
        Recipe(**settings),
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        out=out,
        data_digest="patches",
        device="cpu",
        objective=objective,
        **changes,
    )


def test_training_leaves_an_ordinary_bundle_whose_int8_file_has_the_trained_ranges(
    begun: Bundle, tmp_path: Path
) -> None:
    start = starting_ranges(begun, patches(48, 16))
    outcome = run(tmp_path, begun, int8_aware(start))
    best = read_bundle(tmp_path / "last")
    assert best.digest == outcome.last.digest
    assert set(best.tensors) == set(begun.tensors)
    learned = trained_ranges(best)
    assert learned is not None
    assert set(learned) == set(start)
    assert any(learned[name] != start[name] for name in start)
    made = quantize(best, patches(48, 16))
    assert made.kept.trained
    assert "ranges as trained" in made.kept.described()
    file = Bytes(made.model, patches(4, 16))
    for name, each in learned.items():
        step, zero = file.scales[name]
        swish = f"{name}.hard_swish" in learned
        wanted = ranges.swish_scale(each) if swish else ranges.scale_of(each)
        assert (float(step), int(zero)) == (pytest.approx(wanted.step, rel=1e-6), wanted.zero)


def test_a_named_calibration_goes_before_trained_ranges(begun: Bundle) -> None:
    kept = begun.after("train", begun.tensors, int8_ranges={"head.pool": [0.0, 99.0]})
    assert not quantize(kept, patches(8, 16), calibration="minmax").kept.trained
    assert quantize(kept, patches(8, 16)).kept.trained


def test_ranges_are_forgotten_when_the_weights_change(begun: Bundle) -> None:
    kept = begun.after("train", begun.tensors, int8_ranges={"head.pool": [0.0, 9.0]})
    assert trained_ranges(kept) == {"head.pool": Range(0.0, 9.0)}
    assert trained_ranges(kept.after("prune", kept.tensors)) is None
    assert trained_ranges(begun) is None
    with pytest.raises(FileFormatError, match="int8_ranges"):
        trained_ranges(begun.after("train", begun.tensors, int8_ranges={"head.pool": ["low", "high"]}))


def test_norms_keep_their_statistics(begun: Bundle, tmp_path: Path) -> None:
    outcome = run(tmp_path, begun, int8_aware(starting_ranges(begun, patches(8, 16))), recipe={"ema": 0.0})
    kept = [name for name in begun.tensors if "running_" in name]
    assert kept
    for name in kept:
        np.testing.assert_array_equal(outcome.last.tensors[name], begun.tensors[name])
    assert not np.array_equal(outcome.last.tensors["rows.0.conv.norm.weight"], begun.tensors["rows.0.conv.norm.weight"])


@pytest.mark.parametrize("teaches", [False, True])
def test_a_run_that_was_stopped_ends_bit_equal(
    teaches: bool, begun: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "EVAL_SHARE", 1e9)
    start = starting_ranges(begun, patches(48, 16))
    inner = {} if not teaches else {"objective": distil(begun, Distillation(features=(2,), weight=0.5))}

    class Stopping:
        """Fails at one step."""

        def __init__(self, setting: Any) -> None:
            self._inner = Int8Aware(setting, start, inner.get("objective", loop.CrossEntropy))
            self.modules, self.identity = self._inner.modules, self._inner.identity
            self.answering, self.eligible = self._inner.answering, self._inner.eligible

        @property
        def told(self) -> Any:
            return self._inner.told

        def learn(self, batch: Any, *, step: int) -> Tensor:
            if step == 5:
                raise OSError("gone")
            return self._inner.learn(batch, step=step)

    with pytest.raises(OSError, match="gone"):
        run(tmp_path / "run", begun, Stopping)
    resumed = run(tmp_path / "run", begun, int8_aware(start, **inner), resume="must")
    whole = run(tmp_path / "whole", begun, int8_aware(start, **inner))
    assert resumed.last.digest == whole.last.digest
    assert trained_ranges(resumed.last) == trained_ranges(whole.last)
    assert ("teacher" in whole.last.history[-1]) == teaches


def test_validation_is_of_the_file_that_will_be_written(
    begun: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "BEGUN", 10**6)  # so that they stay
    # Ranges that cut off most of what there is set the file far apart from the float network.
    narrow = {
        name: type(each)(0.2 * each.low, 0.2 * each.high)
        for name, each in starting_ranges(begun, patches(48, 16)).items()
    }
    outcome = run(tmp_path, begun, int8_aware(narrow))
    pixels = patches(24, 16)
    file = Bytes(quantize(outcome.last, patches(48, 16)).model, pixels).logits
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(file), torch.arange(24) % 3)
    exact = torch.nn.functional.cross_entropy(
        torch.from_numpy(reference_logits(outcome.last, pixels)), torch.arange(24) % 3
    )
    told = outcome.rows[-1].eval_loss
    assert told == pytest.approx(float(loss), abs=1e-2)
    assert abs(told - float(exact)) > 3 * abs(told - float(loss))


def test_what_does_not_go_together_is_told(begun: Bundle, tmp_path: Path) -> None:
    start = starting_ranges(begun, patches(8, 16))
    for recalibrate in (4, "auto"):
        with pytest.raises(UsageError, match="set recalibrate=0"):
            run(tmp_path / "a", begun, int8_aware(start), recipe={"recalibrate": recalibrate})
    with pytest.raises(UsageError, match="slice the elastic network"):
        run(tmp_path / "b", begun, int8_aware(start, elastic(ElasticPolicy(narrowest=0.5))))


def test_int8_that_lost_a_point_since_before_training_is_refused() -> None:
    good = Int8Scores(float_before=0.9, int8_before=0.5, float_after=0.85, int8_after=0.895, n=500)
    check_scores(good)
    with pytest.raises(GateError, match=r"accuracy_drop_since_before_training = 0\.05"):
        check_scores(msgspec.structs.replace(good, int8_after=0.85))


@pytest.mark.slow
def test_digits_trained_for_int8_are_told_apart_by_the_file_as_training_said(tmp_path: Path) -> None:
    digits = open_dataset("digits")
    recipe = Recipe(epochs=4.0, batch_size=64, precision="fp32")
    whole = train_run(
        "mobilenet_v3_small_0.35", digits, recipe, out=tmp_path / "float", resolution=16, device="cpu"
    ).best
    low = msgspec.structs.replace(recipe, epochs=1.0, lr=0.02)
    outcome, scores = train_for_int8(whole, digits, low, out=tmp_path / "int8", device="cpu")
    assert scores is not None
    check_scores(scores)
    images = gate_images(prepared(digits, "val", whole.preprocess), on="val")
    export(
        outcome.best,
        tmp_path / "file",
        images=images,
        precision="int8",
        calibration=calibration_images(digits, whole.preprocess),
    )
    answered = run_batches(open_artifact(tmp_path / "file").engine, images.images)
    assert top_k_accuracy(answered, images.targets, k=1) == pytest.approx(scores.int8_after, abs=0.01)
