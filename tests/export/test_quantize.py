"""Int8: what is computed in bytes, that it stays there, and that every rewriting keeps what the graph says."""

import typing
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from making import CENTRED, bundle_of, catalogue, patches, settled_bundle
from mobilenets.arch import CATALOG, ArchSpec, compose
from mobilenets.bundle import Bundle
from mobilenets.errors import GateError, UsageError
from mobilenets.export import GateImages, Limits, export
from mobilenets.export import quantize as policy
from mobilenets.export.gate import reference_logits
from mobilenets.export.int8 import Kernels, Range, channel_means, corrected, equalized, layer_steps, prepared, ranges
from mobilenets.export.int8.model import Model
from mobilenets.export.int8.statistics import channel_maxima
from mobilenets.export.int8.weights import rounded, weight_steps
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx
from mobilenets.export.quantize import quantize
from mobilenets.records import Format

FAMILIES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v4_conv_small")
OF_EACH = catalogue(*FAMILIES, slow=("mobilenet_v3_large",))  # whose rows V3-Small has


def answers(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT_NAME: pixels})[0]


def graph_of(bundle: Bundle) -> onnx.ModelProto:
    return to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)


def operators_that_run(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What is left when ONNX Runtime has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 4  # it warns that such a file is for this machine
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


@pytest.mark.parametrize("base", catalogue())
@pytest.mark.parametrize(
    ("side", "padding", "mean"),
    [(32, "symmetric", CENTRED), (36, "same", (0.4, 0.5, 0.6)), (37, "same", CENTRED), (64, "symmetric", (0.4,))],
)
def test_the_graph_that_is_quantised_answers_like_the_one_it_was_made_of(
    base: str, side: int, padding: str, mean: tuple[float, ...]
) -> None:
    spec = compose(base, alpha=0.25, resolution=side, classes=7)
    spec = msgspec.structs.replace(spec, padding=padding, channels=len(mean))
    bundle = settled_bundle(spec)
    bundle = replace(bundle, preprocess=msgspec.structs.replace(bundle.preprocess, mean=mean))
    graph, pixels = graph_of(bundle), patches(3, side, len(mean))
    expected = answers(graph, pixels)
    assert expected.std(axis=0).max() > 0.1
    for kernels in typing.get_args(Kernels):
        given = answers(prepared(graph, bundle.preprocess, kernels=kernels), pixels)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_a_mean_halfway_between_two_bytes_is_off_at_the_border_only() -> None:
    bundle = bundle_of("mobilenet_v1", mean=(0.5,) * 3)
    graph, pixels = graph_of(bundle), patches(4, 32)
    model = Model(prepared(graph, bundle.preprocess, kernels="onnxruntime"))
    assert -model.constants["input.mean"].item() in (127, 128)

    def first(proto: onnx.ModelProto, value: str) -> np.ndarray:
        shown = onnx.ModelProto()
        shown.CopyFrom(proto)
        shown.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run([value], {INPUT_NAME: pixels})[0]

    activation = "relu6" if any(node.op_type == "Clip" for node in graph.graph.node) else "relu"
    given = first(model.proto(), f"rows.0.conv.{activation}.planes")[:, : bundle.spec.rows[0].out]
    expected = first(graph, f"rows.0.conv.{activation}")
    np.testing.assert_allclose(given[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=1e-4)
    assert 1e-4 < np.abs(given - expected).max() < 0.05


@pytest.mark.parametrize("base", OF_EACH)
def test_no_number_becomes_a_float_between_the_pixels_and_the_logits(base: str, tmp_path: Path) -> None:
    bundle = bundle_of(base)
    model = quantize(bundle, patches(8, 32)).model
    ran = operators_that_run(model, tmp_path)
    floats = {"QuantizeLinear", "DequantizeLinear", "HardSwish", "HardSigmoid", "Conv", "Mul", "Add", "Gemm", "Cast"}
    assert not floats & set(ran), ran
    assert ran["QLinearConv"] == sum(node.op_type == "Conv" for node in graph_of(bundle).graph.node)
    assert ran["QLinearMul"] == sum(
        node.op_type in ("HardSwish", "HardSigmoid") for node in graph_of(bundle).graph.node
    )


def test_a_mean_for_each_channel_costs_three_steps_and_nothing_behind_them(tmp_path: Path) -> None:
    bundle = bundle_of("mobilenet_v3_small", mean=(0.4, 0.5, 0.6))
    ran = operators_that_run(quantize(bundle, patches(8, 32)).model, tmp_path)
    assert (ran["Cast"], ran["Add"], ran["QuantizeLinear"], ran["DequantizeLinear"]) == (1, 1, 1, 0)


@cache  # for two tests
def in_int8(base: str, kernels: Kernels) -> onnx.ModelProto:
    return quantize(bundle_of(base), patches(16, 32), calibration="minmax", kernels=kernels).model


def _answers_nearly_alike(base: str) -> None:
    pixels = patches(16, 32)
    expected = answers(graph_of(bundle_of(base)), pixels)
    for kernels in typing.get_args(Kernels):
        given = answers(in_int8(base, kernels), pixels)
        # An untrained network passes every rounding on; anything that is really wrong leaves no correlation.
        assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.8
        assert not np.array_equal(given, expected)


@pytest.mark.parametrize("base", OF_EACH)
def test_int8_answers_nearly_like_float32(base: str) -> None:
    _answers_nearly_alike(base)


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted(set(CATALOG) - set(FAMILIES)))
def test_int8_of_every_network_answers_nearly_like_float32(base: str) -> None:
    _answers_nearly_alike(base)


def test_the_softmax_of_attention_and_what_it_weighs_stay_float32(tmp_path: Path) -> None:
    bundle = bundle_of("mobilenet_v4_hybrid_medium")
    spec = msgspec.structs.replace(bundle.spec, rows=bundle.spec.rows[:9])  # the first attention is row 8
    bundle = settled_bundle(spec)
    graph = Counter(node.op_type for node in graph_of(bundle).graph.node)
    ran = operators_that_run(quantize(bundle, patches(8, 32)).model, tmp_path)
    assert graph["Softmax"] == ran["Softmax"] == 1
    assert ran["MatMul"] == 1  # shares times values; the scores are a product of bytes that gives floats
    assert ran["Conv"] == 0


@pytest.mark.parametrize("greatest", [0.5, 3.0, 4.0, 11.7, 60.0, 1000.0])
def test_the_bytes_of_a_hard_swish_are_exact_for_both_of_its_factors(greatest: float) -> None:
    scale = ranges.swish_scale(Range(-9.0, greatest))
    q = np.arange(256)
    x = (q - scale.zero) * scale.step
    assert x[0] == pytest.approx(-3)
    assert x[255] >= min(greatest, 127 * 3) or scale.zero == 1
    gate = np.minimum(q, 2 * scale.zero) * scale.step / 6
    np.testing.assert_allclose(gate, np.clip(x + 3, 0, 6) / 6, rtol=0, atol=1e-9)


@pytest.mark.parametrize("base", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_the_range_of_every_hard_swish_begins_at_minus_three(base: str) -> None:
    model = Model(quantize(bundle_of(base), patches(8, 32)).model)
    gates = [node for node in model.nodes if node.op_type == "Clip" and node.name.endswith("hard_swish.gate")]
    assert gates
    for gate in gates:
        (read,) = [node for node in model.readers(gate.input[0]) if node.op_type == "DequantizeLinear"]
        step, zero = (model.constants[name] for name in read.input[1:])
        assert -int(zero) * float(step) == pytest.approx(-3, rel=1e-6)
        assert model.constants[gate.input[2]] == 2 * zero


def test_depthwise_filters_come_sixteen_at_a_time() -> None:
    bundle = bundle_of("mobilenet_v3_large")
    groups = [
        attribute.i
        for node in quantize(bundle, patches(8, 32)).model.graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and attribute.name == "group" and attribute.i > 1
    ]
    narrow = [row for row in bundle.spec.placed() if getattr(row.row, "expanded", None) and row.row.expanded % 16]
    assert narrow
    assert groups
    assert all(group % 16 == 0 for group in groups)


def test_weights_that_were_bytes_before_stay_what_they_are() -> None:
    generator = np.random.default_rng(1)
    weights = generator.integers(-100, 101, (8, 40)) * np.float32(0.0137)
    np.testing.assert_allclose(rounded(weights, weight_steps(weights, in_pairs=False)), weights, rtol=1e-5)


def test_no_channel_of_weights_is_rounded_worse_than_by_its_greatest() -> None:
    weights = np.random.default_rng(2).normal(size=(64, 72)).astype(np.float32)
    weights[5] = 0
    usual = np.abs(weights).max(axis=1) / np.float32(127)
    usual[5] = 1
    ours, theirs = (
        np.square(rounded(weights, steps) - weights).sum(axis=1)
        for steps in (weight_steps(weights, in_pairs=False), usual)
    )
    assert (ours <= theirs + 1e-9).all()
    assert not rounded(weights, weight_steps(weights, in_pairs=False))[5].any()


def test_corrected_biases_take_back_what_rounding_adds_on_average() -> None:
    bundle, pixels = bundle_of("mobilenet_v2"), patches(32, 32)
    proto = prepared(graph_of(bundle), bundle.preprocess, kernels="onnxruntime")
    exact = answers(proto, pixels).mean(axis=0)
    gone = []
    for graph in (proto, corrected(proto, channel_means(proto, pixels), layer_steps(proto))):
        # Only the classifier is rounded, and corrected, so that its input stays that of the exact graph.
        made, exactly = Model(graph), Model(proto)
        for node in made.nodes:
            for name in node.input[1:]:
                if name in made.constants and node.op_type != "Gemm":
                    made.constants[name] = exactly.constants[name]
            if node.op_type == "Gemm":
                weight = made.constants[node.input[1]]
                made.constants[node.input[1]] = rounded(weight, weight_steps(weight, in_pairs=True))
        gone.append(np.abs(answers(made.proto(), pixels).mean(axis=0) - exact).max())
    assert gone[1] < 0.01 * gone[0]


@pytest.mark.parametrize("base", ["mobilenet_v1", "mobilenet_v3_small"])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_wrong_ranges_are_caught_by_the_gate(
    format: Format, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format == "tflite":
        pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    bundle, pixels = bundle_of(base), patches(24, 32)
    images = GateImages(images=pixels, targets=reference_logits(bundle, pixels).argmax(1), on="val")

    def narrow(*given: Any, **options: Any) -> dict[str, Range]:
        found = ranges.calibrated(*given, **options)
        return {name: Range(each.low / 10, each.high / 10) for name, each in found.items()}

    monkeypatch.setattr(policy, "calibrated", narrow)
    with pytest.raises(GateError):
        export(bundle, tmp_path / "int8", images=images, format=format, precision="int8", calibration=pixels)
    assert list(tmp_path.iterdir()) == []


def test_auto_keeps_what_disturbs_images_least_that_it_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.Limits, "of", lambda precision: Limits(logits=9.0, agreement=0.0, drop=1.0))
    made = quantize(bundle_of("mobilenet_v3_small_minimalistic"), patches(48, 32))
    assert len(made.trials) == 5
    assert {(trial.calibration, trial.corrected) for trial in made.trials} == {
        (method, corrects) for method in ("minmax", "percentile") for corrects in (False, True)
    }
    assert all(trial.n == 12 and not trial.floats for trial in made.trials)
    assert made.kept.noise == min(trial.noise for trial in made.trials if trial.noise is not None)


def test_rows_that_disturb_most_stay_float32_where_int8_alone_agrees_too_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, wrong = bundle_of("mobilenet_v1"), "rows.5"

    # In the middle of the row: as float32 it is whole again.
    def one_row_wrong(proto: onnx.ModelProto, *given: Any, **options: Any) -> dict[str, Range]:
        found = ranges.calibrated(proto, *given, **options)
        return {
            k: Range(v.low / 30, v.high / 30) if k.startswith(f"{wrong}.depthwise") else v for k, v in found.items()
        }

    monkeypatch.setattr(policy, "calibrated", one_row_wrong)
    monkeypatch.setattr(policy.Limits, "of", lambda precision: Limits(logits=9.0, agreement=0.85, drop=1.0))
    made = quantize(bundle, patches(48, 32))
    assert made.kept.floats[0] == wrong
    assert made.kept.agreement is not None
    assert made.kept.agreement >= 0.85
    floats = {name for node in made.model.graph.node if node.op_type == "Conv" for name in node.input[1:2]}
    assert {name for name in floats if not name.endswith("DequantizeLinear_Output")} == {
        f"{row}.{part}.weight" for row in made.kept.floats for part in ("depthwise", "project")
    }


def test_equalised_channels_answer_alike_and_fill_their_range() -> None:
    bundle, pixels = bundle_of("mobilenet_v2"), patches(32, 32)
    proto = prepared(graph_of(bundle), bundle.preprocess, kernels="onnxruntime")
    even = equalized(proto, pixels)
    assert even is not None
    expected, given = answers(proto, pixels), answers(even, pixels)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-3 * float(np.abs(expected).max()))
    value = next(node.output[0] for node in proto.graph.node if node.name.startswith("rows.3.expand.relu"))
    before, after = (channel_maxima(graph, pixels, [value])[value] for graph in (proto, even))
    alive = before > before.max() / 50
    assert np.ptp(before[alive]) > 0.2 * before.max()
    np.testing.assert_allclose(after[alive], np.maximum(before, before.max() / 1.1)[alive], rtol=0.01)


def test_nothing_is_equalised_across_a_hard_swish() -> None:
    spec = compose("mobilenet_v3_small", alpha=0.25, resolution=32, stride="small", classes=3)
    bundle = settled_bundle(msgspec.structs.replace(spec, rows=tuple(r for r in spec.rows if r.act == "hard_swish")))
    proto = prepared(graph_of(bundle), bundle.preprocess, kernels="onnxruntime")
    before, after = Model(proto), Model(equalized(proto, patches(4, 32)))
    changed = {name for name, value in before.constants.items() if not np.array_equal(value, after.constants[name])}
    assert changed
    assert all(".excite." in name for name in changed)  # squeeze and excite have a ReLU between them


@pytest.mark.parametrize("calibration", ["minmax", "percentile", pytest.param("entropy", marks=pytest.mark.slow)])
def test_a_calibration_that_is_named_is_taken(calibration: Any) -> None:
    bundle, pixels = bundle_of("mobilenet_v3_small_minimalistic"), patches(40, 32)
    made = quantize(bundle, pixels, calibration=calibration)
    assert [trial.calibration for trial in made.trials] == [calibration]
    given, expected = answers(made.model, pixels), answers(graph_of(bundle), pixels)
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.8


def test_an_unknown_calibration_is_refused() -> None:
    with pytest.raises(UsageError, match="kl"):
        quantize(bundle_of("mobilenet_v1"), patches(4, 32), calibration="kl")  # type: ignore[arg-type]


def test_the_rows_of_a_hand_written_table_are_quantised_too() -> None:
    spec: ArchSpec = compose("mobilenet_v2", alpha=0.25, resolution=32, stride="small", classes=3)
    bundle = settled_bundle(msgspec.structs.replace(spec, rows=spec.rows[:4]))
    pixels = patches(16, 32)
    given, expected = answers(quantize(bundle, pixels).model, pixels), answers(graph_of(bundle), pixels)
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.97


PAIRED = [("matrix", (24, 96)), ("convolution", (24, 20, 3, 3)), ("stem", (24, 3, 3, 3)), ("odd", (24, 15, 3, 3))]


@pytest.mark.parametrize(("kind", "shape"), PAIRED, ids=[kind for kind, _ in PAIRED])
def test_two_products_that_are_added_at_once_fit_into_16_bits(kind: str, shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    steps = weight_steps(weights, in_pairs=True).reshape(-1, *[1] * (len(shape) - 1))
    whole = np.rint(weights / steps).astype(np.int64)
    assert np.abs(whole).max() <= 127
    assert np.abs(whole).reshape(24, -1).max(axis=1).min() >= 64
    # With the channels innermost, all in one row as a matrix product reads them, and tap by tap in fours.
    row = np.moveaxis(whole.reshape(*shape[:2], -1), 1, -1)
    taps = np.pad(row, [(0, 0), (0, 0), (0, -shape[1] % 4)])
    flat = np.pad(row.reshape(24, -1), [(0, 0), (0, row[0].size % 2)])
    for laid in (taps, flat):
        assert np.abs(255 * laid.reshape(24, -1, 2).sum(axis=2)).max() <= 2**15
    alone = np.rint(weights / weight_steps(weights, in_pairs=False).reshape(steps.shape)).astype(np.int64)
    pairs = np.moveaxis(alone.reshape(*shape[:2], -1), 1, -1).reshape(24, -1)[:, : row[0].size // 2 * 2]
    assert np.abs(255 * pairs.reshape(24, -1, 2).sum(axis=2)).max() > 2**15


def test_a_stem_has_the_same_steps_however_its_columns_are_laid_out() -> None:
    bundle = bundle_of("mobilenet_v1")
    graphs = [Model(prepared(graph_of(bundle), bundle.preprocess, kernels=k)) for k in ("onnxruntime", "litert")]
    stems = [next(graph.constants[node.input[1]] for node in graph.nodes if node.op_type == "Conv") for graph in graphs]
    regrouped, plain = (weight_steps(stem, in_pairs=True) for stem in stems)
    assert stems[0].shape[:2] != stems[1].shape[:2]
    filters = plain[: len(regrouped) // 4]  # what was added to make more of them is zeros
    kept = stems[0].reshape(len(regrouped), -1).any(axis=1)
    np.testing.assert_array_equal(regrouped[kept], np.tile(filters[filters != 1], kept.sum() // (filters != 1).sum()))


@pytest.mark.parametrize("base", OF_EACH)
@pytest.mark.parametrize("kernels", typing.get_args(Kernels))
def test_fused_kernels_answer_as_the_graph_says_on_every_processor(kernels: Kernels, base: str) -> None:
    """Without optimisations each step is computed in float32 and rounded, which no processor's bytes can cut off."""
    pixels, model = patches(16, 32), in_int8(base, kernels)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    exact, given = session.run(None, {INPUT_NAME: pixels})[0], answers(model, pixels)
    # A few numbers halfway between two bytes are rounded otherwise, and an untrained network passes them on.
    assert (np.abs(given - exact) < 0.02 * exact.std()).mean() > 0.7
    assert np.square(given - exact).mean() < 0.05 * exact.var()
