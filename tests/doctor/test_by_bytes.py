"""int8 files: what is not in bytes, and bytes that say too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

from doctored import Draft, artifact_of
from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.data import open_dataset
from mobilenets.doctor import Checkup, Finding, doctor
from mobilenets.export.onnx_graph import INPUT_NAME, OUTPUT_NAME
from mobilenets.export.quantize import quantize

LABELS = tuple("abcd")


def found(checkup: Checkup) -> dict[str, Finding]:
    return {finding.problem: finding for finding in checkup.findings}


@pytest.fixture(scope="module", params=["mobilenet_v2", "mobilenet_v3_small"])
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 artifact as `mobilenets quantize` makes it, without its gates: random weights would not pass them."""
    spec = compose(request.param, alpha=0.25, resolution=32, stride="small", classes=len(LABELS))
    bundle = settled_bundle(spec)
    centred = msgspec.structs.replace(bundle.preprocess, mean=(128 / 255,) * 3, std=(0.25,) * 3)
    bundle = replace(bundle, preprocess=centred)
    return artifact_of(
        tmp_path_factory.mktemp("healthy") / request.param,
        quantize(bundle, patches(16, 32), calibration="minmax").model.SerializeToString(),
        labels=LABELS,
        preprocess=centred,
        precision="int8",
        spec=(spec.name, spec.digest),
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
    )


def folder_of(root: Path, images: np.ndarray) -> Path:
    for number, pixels in enumerate(images):
        (root / LABELS[number % 4]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / LABELS[number % 4] / f"{number}.png")
    return root


def test_an_int8_artifact_of_ours_has_no_findings(healthy: Path, tmp_path: Path) -> None:
    assert doctor(healthy).findings == ()
    images = open_dataset(folder_of(tmp_path / "patches", patches(24, 32)))
    about_answers = {"answers at chance", "fed wrongly", "labels shifted"}  # its labels are made up
    checkup = doctor(healthy, images, split="train")
    assert set(found(checkup)) <= about_answers
    assert checkup.feeding is not None
    assert "values in [0, 255]" in checkup.feeding.untried  # bytes do not reach as far


def changed(artifact: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A bare file, changed."""
    model = onnx.load(artifact / "model.onnx")
    change(model)
    onnx.save(model, out)
    return out


def constant(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)


@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan")])
def test_scales_that_are_no_scales_are_found(scale: float, healthy: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = [each for each in model.graph.node if each.op_type == "QuantizeLinear"][2]
        kept = constant(model, node.input[1])
        kept.CopyFrom(numpy_helper.from_array(np.array(scale, np.float32), kept.name))

    finding = found(doctor(changed(healthy, tmp_path / "m.onnx", change)))["uncalibrated ranges"]
    assert "a scale of 0, infinity or no number" in finding.evidence


def test_one_scale_everywhere_means_that_nobody_calibrated(tmp_path: Path) -> None:
    draft = Draft()
    value = byte_network(draft, scales=(1.0, 1.0, 1.0))
    assert (
        "all 5 activations have the scale 1"
        in found(doctor(draft.write(tmp_path / "m.onnx", value)))["uncalibrated ranges"].evidence
    )
    other = Draft()
    assert set(found(doctor(other.write(tmp_path / "o.onnx", byte_network(other))))) == {"sums beyond 16 bits"}


def byte_network(
    draft: Draft,
    *,
    scales: tuple[float, float, float] = (0.02, 0.03, 0.04),
    zero: int = 0,
    filters: np.ndarray | None = None,
    per_channel: bool = True,
    act: str = "Relu",
    between: Callable[[str], str] | None = None,
    float_layer: bool = False,
) -> str:
    """Two layers in bytes and the head: a healthy file, unless it is told otherwise."""
    value = draft.bytes_of("image", scales[0])
    first = draft.rng.normal(0, 0.5, (8, 3, 3, 3)) if filters is None else filters
    weight = draft.byte_weight(first, per_channel=per_channel)
    value = draft.add(act, draft.conv(value, 3, 8, stride=2, weight=weight, bias=False))
    value = draft.bytes_of(value, scales[1], zero)
    if between is not None:
        value = between(value)
    if float_layer:
        return draft.head(draft.conv(value, 8, 32, weight=draft.constant(draft.rng.normal(0, 0.5, (32, 8, 3, 3)))), 32)
    weight = draft.byte_weight(draft.rng.normal(0, 0.5, (8, 8, 3, 3)))
    value = draft.add("Relu", draft.conv(value, 8, 8, weight=weight, bias=False))
    value = draft.bytes_of(value, scales[2], 0)
    pooled = draft.bytes_of(draft.add("GlobalAveragePool", value), scales[2], 0)
    matrix = draft.byte_weight(draft.rng.normal(0, 1, (8, 8)))
    flat = draft.bytes_of(draft.add("Flatten", pooled), scales[2], 0)
    return draft.add("Gemm", flat, matrix, transB=1)


def test_float_weights_in_an_int8_file_are_found_with_their_share(tmp_path: Path) -> None:
    draft = Draft()
    path = draft.write(tmp_path / "m.onnx", byte_network(draft, float_layer=True))
    finding = found(doctor(path))["float weights"]
    floats = 4 * (32 * 8 * 9 + 8 * 32)
    assert f"{100 * floats / (floats + 8 * 27):.1f} % of" in finding.evidence
    assert "in 2 of 3 layers" in finding.evidence


def test_a_float_file_that_calls_itself_int8_is_found(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.head(draft.conv("image", 3, 8, stride=2), 8)
    content = draft.model(value).SerializeToString()
    path = artifact_of(tmp_path / "a", content, precision="int8", output_name=value)
    assert "100.0 % of" in found(doctor(path))["float weights"].evidence
    assert found(doctor(artifact_of(tmp_path / "b", content, output_name=value))) == {}


def test_weights_that_are_made_bytes_when_the_file_is_opened_are_float_weights(tmp_path: Path) -> None:
    draft = Draft()
    late = draft.bytes_of(draft.constant(draft.rng.normal(0, 0.5, (8, 3, 3, 3))), 0.01, 0, np.int8)
    value = draft.head(draft.conv(draft.bytes_of("image"), 3, 8, stride=2, weight=late), 8)
    assert (
        "1 of them are made bytes when the file is opened"
        in found(doctor(draft.write(tmp_path / "m.onnx", value)))["float weights"].evidence
    )


def test_one_scale_is_wrong_where_channels_differ_much_and_right_where_they_do_not(tmp_path: Path) -> None:
    draft = Draft()
    uneven = draft.rng.normal(0, 0.5, (8, 3, 3, 3)) * np.array([1, 1, 1, 1, 0.02, 0.02, 0.02, 0.02]).reshape(
        -1, 1, 1, 1
    )
    path = draft.write(tmp_path / "m.onnx", byte_network(draft, filters=uneven, per_channel=False))
    assert "4 of 8" in found(doctor(path))["one scale for all channels"].evidence
    for name, options in {"even": {"per_channel": False}, "each": {"filters": uneven}}.items():
        other = Draft()
        path = other.write(tmp_path / f"{name}.onnx", byte_network(other, **options))  # type: ignore[arg-type]
        assert "one scale for all channels" not in found(doctor(path))


def test_steps_below_zero_behind_a_relu_are_found_and_behind_a_sum_they_are_not(tmp_path: Path) -> None:
    draft = Draft()
    finding = found(doctor(draft.write(tmp_path / "m.onnx", byte_network(draft, zero=128))))["zero points out of place"]
    assert "50 % of 256" in finding.evidence
    other = Draft()
    path = other.write(tmp_path / "o.onnx", byte_network(other, zero=128, act="Softplus"))
    assert "zero points out of place" not in found(doctor(path))


def test_float_operators_between_bytes_are_islands(tmp_path: Path) -> None:
    draft = Draft()

    def between(value: str) -> str:
        return draft.bytes_of(draft.add("Erf", draft.add("Softplus", value)), 0.01, 3)

    finding = found(doctor(draft.write(tmp_path / "m.onnx", byte_network(draft, between=between))))["float islands"]
    assert "1 island of float operators between bytes" in finding.evidence
    assert "Softplus (1)" in finding.evidence
    assert "Erf (1)" in finding.evidence


def test_a_layer_with_weights_in_bytes_that_runs_in_float_is_found(tmp_path: Path) -> None:
    draft = Draft()
    weight = draft.byte_weight(draft.rng.normal(0, 0.5, (8, 3, 3, 3)))
    value = draft.add(
        "Erf", draft.conv("image", 3, 8, stride=2, weight=weight, bias=False)
    )  # nothing quantises its input
    matrix = draft.byte_weight(draft.rng.normal(0, 1, (8, 8)))
    value = draft.add("Gemm", draft.add("Flatten", draft.add("GlobalAveragePool", value)), matrix, transB=1)
    finding = found(doctor(draft.write(tmp_path / "m.onnx", value)))["convolutions left in float"]
    assert "2 of 2 layers" in finding.evidence
    assert "100.0 % of the mult-adds" in finding.evidence


def test_ranges_that_real_images_leave_are_saturated(tmp_path: Path) -> None:
    data = open_dataset(folder_of(tmp_path / "data", patches(24, 16)))
    narrow, wide = Draft(), Draft()
    for draft, scale in ((narrow, 0.001), (wide, 0.06)):
        value = byte_network(draft, scales=(0.03, scale, 0.3))
        last = draft.add("Gather", value, draft.constant([0, 1, 2, 3], np.int64), axis=1)
        draft.write(tmp_path / f"{scale}.onnx", last, classes=4, named=False)
    finding = found(doctor(tmp_path / "0.001.onnx", data, split="train"))["saturated ranges"]
    assert "1 of 5 ranges cut off" in finding.evidence
    assert "outside 0 to 0.255" in finding.evidence
    assert "saturated ranges" not in found(doctor(tmp_path / "0.06.onnx", data, split="train"))


def test_an_input_range_that_images_leave_is_saturated(tmp_path: Path) -> None:
    data = open_dataset(folder_of(tmp_path / "data", patches(24, 16)))
    draft = Draft()
    value = byte_network(draft, scales=(0.002, 0.06, 0.3))
    last = draft.add("Gather", value, draft.constant([0, 1, 2, 3], np.int64), axis=1)
    path = draft.write(tmp_path / "m.onnx", last, classes=4, named=False)
    assert found(doctor(path, data, split="train"))["saturated ranges"].nodes == ("image",)


def test_weights_whose_sums_leave_16_bits_are_told_and_those_of_one_bit_less_are_not(tmp_path: Path) -> None:
    draft = Draft()
    path = draft.write(tmp_path / "m.onnx", byte_network(draft))
    finding = found(doctor(path))["sums beyond 16 bits"]
    assert finding.weight == "note"
    assert "in 3 of 3 layers" in finding.evidence
    model = onnx.load(path)
    for each in model.graph.initializer:
        if each.data_type == TensorProto.INT8:
            halved = numpy_helper.to_array(each) // 2
            each.CopyFrom(numpy_helper.from_array(halved, each.name))
    onnx.save(model, path)
    assert "sums beyond 16 bits" not in found(doctor(path))


def test_sums_of_depthwise_filters_stay_in_32_bits(tmp_path: Path) -> None:
    draft = Draft()
    most = np.full((3, 1, 3, 3), 1.0)
    value = draft.conv(draft.bytes_of("image"), 3, 3, group=3, weight=draft.byte_weight(most), bias=False)
    path = draft.write(tmp_path / "m.onnx", draft.head(draft.bytes_of(value), 3))
    assert "sums beyond 16 bits" not in found(doctor(path))
