"""Operators that cost time or tie a file to one runtime: each found where it is, and only there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from doctored import Draft
from mobilenets.doctor import Checkup, Finding, doctor
from mobilenets.doctor.compiled import compiled


def found(checkup: Checkup) -> dict[str, Finding]:
    return {finding.problem: finding for finding in checkup.findings}


def stem(draft: Draft, value: str = "image", *, act: str | None = "Relu", **options: Any) -> str:
    value = draft.conv(value, 3, 8, stride=2, **options)
    return draft.add(act, value) if act else value


def rest(draft: Draft, value: str) -> str:
    value = draft.add("Relu", draft.conv(value, 8, 8, group=8, stride=2))
    return draft.head(draft.add("HardSwish", draft.conv(value, 8, 16, kernel=1)), 16)


def healthy(draft: Draft) -> str:
    return rest(draft, stem(draft))


def hard_swish(draft: Draft, x: str, form: str) -> str:
    """x * clip(x + 3, 0, 6) / 6, as different libraries write it."""
    three, six, low = draft.constant(3), draft.constant(6), draft.constant(0)
    sixth, half, one = draft.constant(1 / 6), draft.constant(0.5), draft.constant(1)
    if form == "HardSigmoid":
        return draft.add("Mul", x, draft.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    if form == "one":
        scaled = draft.add("Add", draft.add("Mul", x, sixth), half)
        return draft.add("Mul", draft.add("Clip", scaled, low, one), x)
    clipped = draft.add("Clip", draft.add("Add", x, three), low, six)
    if form == "gate first":
        return draft.add("Mul", x, draft.add("Div", clipped, six))
    if form == "product first":
        return draft.add("Div", draft.add("Mul", x, clipped), six)
    if form == "sixth of x":
        return draft.add("Mul", draft.add("Mul", x, sixth), clipped)
    raise ValueError(form)


def test_a_file_without_faults_has_no_findings(tmp_path: Path) -> None:
    draft = Draft()
    assert doctor(draft.write(tmp_path / "m.onnx", healthy(draft))).findings == ()


@pytest.mark.parametrize("form", ["gate first", "product first", "sixth of x", "one", "HardSigmoid"])
def test_hard_swish_in_pieces_is_found_however_it_is_written(form: str, tmp_path: Path) -> None:
    draft = Draft()
    path = draft.write(tmp_path / "m.onnx", rest(draft, hard_swish(draft, stem(draft, act=None), form)))
    finding = found(doctor(path))["activation in pieces"]
    assert "1 hard-swish" in finding.evidence
    assert len(finding.nodes) == {"HardSigmoid": 2}.get(form, 4)


def test_a_gate_in_pieces_is_a_hard_sigmoid(tmp_path: Path) -> None:
    draft = Draft()
    map_ = stem(draft)
    pooled = draft.conv(draft.add("GlobalAveragePool", map_), 8, 8, kernel=1)
    clipped = draft.add("Clip", draft.add("Add", pooled, draft.constant(3)), draft.constant(0), draft.constant(6))
    gate = draft.add("Div", clipped, draft.constant(6))
    path = draft.write(tmp_path / "m.onnx", rest(draft, draft.add("Mul", map_, gate)))
    assert "1 hard-sigmoid" in found(doctor(path))["activation in pieces"].evidence


def test_a_relu6_and_a_hard_sigmoid_of_other_numbers_are_no_pieces(tmp_path: Path) -> None:
    draft = Draft()
    value = stem(draft, act=None)
    value = draft.add("Clip", draft.add("Add", value, draft.constant(2)), draft.constant(0), draft.constant(6))
    value = draft.add("Mul", value, draft.add("HardSigmoid", value))  # ONNX's default is x / 5 + 1 / 2
    assert "activation in pieces" not in found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))


def test_old_exports_have_pieces_and_an_old_opset(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.mobilenet_v3_small(width_mult=0.25, num_classes=4).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes old opsets is deprecated
        torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), tmp_path / "tv.onnx", dynamo=False, opset_version=12)
    findings = found(doctor(tmp_path / "tv.onnx"))
    assert set(findings) == {"activation in pieces", "labels missing", "old opset"}
    assert "19 hard-swish" in findings["activation in pieces"].evidence
    assert "opset 12 has no HardSwish" in findings["activation in pieces"].evidence


def test_norms_behind_convolutions_are_found_and_norms_elsewhere_are_not(tmp_path: Path) -> None:
    draft = Draft()

    def norm(value: str) -> str:
        numbers = [draft.constant(draft.rng.uniform(0.5, 1.5, 8)) for _ in range(4)]
        return draft.add("BatchNormalization", value, *numbers)

    behind = norm(draft.conv("image", 3, 8, stride=2))
    alone = norm(draft.add("Relu", behind))
    finding = found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, alone))))["norms not folded"]
    assert finding.nodes == (behind,)
    assert finding.weight == "note"
    assert "ONNX Runtime folds 1 of them" in finding.evidence


def test_a_factor_per_channel_behind_a_convolution_is_a_norm(tmp_path: Path) -> None:
    draft = Draft()
    factor = draft.constant(draft.rng.uniform(0.5, 1.5, (1, 8, 1, 1)))
    value = draft.add("Mul", draft.conv("image", 3, 8, stride=2), factor)
    assert "norms not folded" in found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))


def test_transposes_between_layers_are_stray_and_those_of_the_image_are_not(tmp_path: Path) -> None:
    draft = Draft(shape=[1, 16, 16, 3])
    value = stem(draft, draft.add("Transpose", "image", perm=[0, 3, 1, 2]))
    there = draft.add("Transpose", value, perm=[0, 2, 3, 1])
    back = draft.add("Transpose", draft.add("Softplus", there), perm=[0, 3, 1, 2])
    finding = found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, back))))["stray transposes"]
    assert finding.nodes == (there, back)
    assert "1,024 numbers an image" in finding.evidence


def test_a_pad_before_a_convolution_is_found_and_sides_given_to_it_are_not(tmp_path: Path) -> None:
    draft = Draft()
    padded = draft.add("Pad", "image", draft.constant([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
    value = draft.add("Relu", draft.conv(padded, 3, 8, stride=2, pads=(0, 0)))
    findings = found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))
    assert findings["pads outside convolutions"].nodes == (padded,)
    other = Draft()
    value = other.add("Relu", other.conv("image", 3, 8, stride=2, pads=(0, 1)))
    assert "pads outside convolutions" not in found(doctor(other.write(tmp_path / "o.onnx", rest(other, value))))


def test_free_sides_are_told_and_a_free_batch_is_not(tmp_path: Path) -> None:
    free = Draft(shape=["n", 3, "height", "width"])
    finding = found(doctor(free.write(tmp_path / "free.onnx", healthy(free))))["dynamic shapes"]
    assert "['?', 3, '?', '?']" in finding.evidence
    assert finding.weight == "note"
    batch = Draft(shape=["n", 3, 16, 16])
    assert "dynamic shapes" not in found(doctor(batch.write(tmp_path / "batch.onnx", healthy(batch))))


def test_operators_that_ask_for_shapes_are_slow_where_they_are_left_over(tmp_path: Path) -> None:
    draft = Draft(shape=["n", 3, "height", "width"])
    value = draft.add("Relu", draft.conv("image", 3, 8, stride=2))
    sides = draft.add("Slice", draft.add("Shape", value), *(draft.constant([n], np.int64) for n in (2, 4)))
    zeros = draft.add("ConstantOfShape", sides)
    value = draft.add("Add", value, zeros)
    finding = found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))["dynamic shapes"]
    assert finding.weight == "slow"
    assert "2 operators ask for shapes" in finding.evidence


def test_operators_of_one_runtime_are_told_apart_from_those_of_one_machine(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.add("Relu", draft.conv("image", 3, 8, stride=2))
    value = draft.add("QuickGelu", value, domain="com.microsoft")
    vendor = draft.write(tmp_path / "vendor.onnx", rest(draft, value))
    finding = found(doctor(vendor))["operators of one runtime"]
    assert finding.weight == "note"
    assert "1 of com.microsoft" in finding.evidence
    plain = Draft()
    path = plain.write(tmp_path / "plain.onnx", healthy(plain))
    optimised(path, tmp_path / "optimised.onnx")
    finding = found(doctor(tmp_path / "optimised.onnx")).get("operators of one runtime")
    if finding is None:
        pytest.skip("this processor has no kernels in blocks of channels")
    assert finding.weight == "slow"


def optimised(path: Path, out: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_what_falls_to_another_provider_is_counted(tmp_path: Path) -> None:
    import onnxruntime as ort

    draft = Draft()
    path = draft.write(tmp_path / "m.onnx", healthy(draft))
    other = next((each for each in ort.get_available_providers() if each != "CPUExecutionProvider"), None)
    if other is None:
        pytest.skip("this ONNX Runtime has one provider only")
    finding = found(doctor(path, provider=other))["other provider"]
    left = len(compiled(path).graph.nodes)
    assert f"{left} of {left} operators" in finding.evidence
    assert "CPUExecutionProvider" in finding.remedy


def test_training_mode_spoils_answers(tmp_path: Path) -> None:
    draft = Draft()
    numbers = [draft.constant(np.ones(8)) for _ in range(4)]
    value = draft.conv("image", 3, 8, stride=2)
    value = draft.add("BatchNormalization", value, *numbers, outputs=3, training_mode=1)
    assert found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))["training mode"].weight == "wrong"
    dropping = Draft()
    ratio, training = dropping.constant(0.5), dropping.constant(True, bool)
    value = dropping.add("Dropout", stem(dropping), ratio, training)
    assert "training mode" in found(doctor(dropping.write(tmp_path / "d.onnx", rest(dropping, value))))
    resting = Draft()
    value = resting.add("Dropout", stem(resting))
    assert "training mode" not in found(doctor(resting.write(tmp_path / "r.onnx", rest(resting, value))))


def test_constants_may_be_nodes_and_values_may_go_by_two_names(tmp_path: Path) -> None:
    """As torch's exporters write them."""
    draft = Draft()
    x = stem(draft, act=None)
    three = onnx.helper.make_tensor("three", TensorProto.FLOAT, [], [3.0])
    draft.nodes.append(onnx.helper.make_node("Constant", [], ["three"], name="three", value=three))
    same = draft.add("Identity", "three")
    clipped = draft.add("Clip", draft.add("Add", x, same), draft.constant(0), draft.constant(6))
    value = draft.add("Mul", draft.add("Identity", x), draft.add("Div", clipped, draft.constant(6)))
    assert "activation in pieces" in found(doctor(draft.write(tmp_path / "m.onnx", rest(draft, value))))
