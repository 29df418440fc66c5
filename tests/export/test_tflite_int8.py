"""int8 `.tflite` files: whole numbers only, as the format's specification has them, and ONNX Runtime's answers.

ONNX Runtime and LiteRT share neither code nor file here, only the quantised graph.
"""

from __future__ import annotations

import functools
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from making import CENTRED, bundle_of, patches, settled_bundle
from mobilenets.arch import CATALOG, compose
from mobilenets.bundle import Bundle
from mobilenets.errors import SpecError, UsageError
from mobilenets.export import FORMATS
from mobilenets.export.int8 import calibrated, prepared, quantized
from mobilenets.export.int8.trained import RANGES_KEY, starting_ranges
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx
from mobilenets.export.quantize import quantize
from mobilenets.export.tflite import to_tflite

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

FAMILIES = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_small_minimalistic",
    "mobilenet_v4_conv_small",
)
UNEVEN = (0.485, 0.456, 0.406)
PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # LiteRT's own kernels, without XNNPACK


def graph_of(bundle: Bundle, images: np.ndarray) -> onnx.ModelProto:
    return quantize(bundle, images, calibration="minmax", kernels="litert").model


@functools.cache
def made_of(base: str, mean: tuple[float, ...] = CENTRED) -> tuple[onnx.ModelProto, bytes]:
    """The quantised graph and the file; not to be changed."""
    model = graph_of(bundle_of(base, mean=mean), patches(16, 32))
    return model, to_tflite(model, facts={})


def told(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """By ONNX Runtime, node by node, as the graph is written: its own int8 kernels round elsewhere."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answered: np.ndarray = session.run(None, {INPUT_NAME: pixels})[0]
    return answered


def run(content: bytes, pixels: np.ndarray, **options: Any) -> tuple[np.ndarray, Interpreter]:
    interpreter = Interpreter(model_content=content, num_threads=1, **options)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], list(pixels.shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), interpreter


def logit_step(model: onnx.ModelProto) -> float:
    (last,) = [node for node in model.graph.node if node.output[0] == model.graph.output[0].name]
    (step,) = [each for each in model.graph.initializer if each.name == last.input[1]]
    return float(onnx.numpy_helper.to_array(step).item())


def answers_alike(model: onnx.ModelProto, content: bytes, pixels: np.ndarray, *, deep: bool = False) -> None:
    expected, step = told(model, pixels), logit_step(model)
    assert expected.std(axis=0).max() > 10 * step
    given, _ = run(content, pixels)
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.98
    if platform.machine() in ("x86_64", "AMD64") and not deep:
        # There XNNPACK rounds as ONNX says, but for a number in a hundred thousand that lies halfway between two bytes.
        # Kernels that round otherwise, as those below, leave no logit as it was: an untrained network passes all on.
        # Which images have such a number depends on the processor; those are off by some steps.
        assert (np.abs(given - expected) < 0.5 * step).mean() > 0.8
        assert (np.abs(given - expected) <= 6.5 * step).mean() > 0.95
    if not deep:
        plain, _ = run(content, pixels, experimental_op_resolver_type=PLAIN)
        assert np.corrcoef(plain.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("base", FAMILIES)
def test_the_file_answers_like_the_quantised_graph(base: str) -> None:
    answers_alike(*made_of(base), patches(16, 32))


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted(name for name in CATALOG if "hybrid" not in name))
def test_the_file_of_every_catalogue_network_answers_like_the_quantised_graph(base: str) -> None:
    bundle, pixels = bundle_of(base, side=64), patches(16, 64)
    model = graph_of(bundle, pixels)
    # In V4 Medium and Large one byte in the second row reaches every logit.
    answers_alike(model, to_tflite(model, facts={}), pixels, deep=True)


def test_a_mean_between_two_bytes_and_uneven_padding_answer_like_the_quantised_graph() -> None:
    bundle, pixels = bundle_of("mobilenet_v2", mean=(0.5,) * 3, padding="same"), patches(16, 32)
    model = graph_of(bundle, pixels)
    answers_alike(model, to_tflite(model, facts={}), pixels)


def test_a_mean_for_each_channel_is_taken_in_bytes() -> None:
    _, content = made_of("mobilenet_v2", UNEVEN)
    pixels = patches(4, 32)
    _, interpreter = run(content, pixels, experimental_op_resolver_type=PLAIN, experimental_preserve_all_tensors=True)
    (name,) = (each for each in bytes_by_name(interpreter) if each.startswith("input."))
    scale = scales_of(content)[name]
    zero = next(each for each in interpreter.get_tensor_details() if each["name"] == name)["quantization"][1]
    taken = (bytes_by_name(interpreter)[name].astype(np.float64) - zero) * scale
    # Half a step of the bytes, and half a step of what is left of each mean.
    np.testing.assert_allclose(taken, pixels - 255 * np.array(UNEVEN), rtol=0, atol=0.5 * scale + 0.05)


def tensors_of(content: bytes) -> tuple[Any, list[Any]]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return model, model.subgraphs[0].tensors


def kind_of(tensor: Any) -> str:
    return next(name for name, value in vars(schema.TensorType).items() if value == tensor.type)


@pytest.mark.parametrize("base", FAMILIES)
def test_only_the_logits_are_floats(base: str) -> None:
    only_the_logits_are_floats(made_of(base)[1])


def test_only_the_logits_are_floats_where_each_channel_has_a_mean() -> None:
    only_the_logits_are_floats(made_of("mobilenet_v2", UNEVEN)[1])


def only_the_logits_are_floats(content: bytes) -> None:
    _, tensors = tensors_of(content)
    assert [each.name.decode() for each in tensors if kind_of(each).startswith("FLOAT")] == ["logits"]
    assert [each.name.decode() for each in tensors if kind_of(each) == "UINT8"] == [INPUT_NAME]
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=PLAIN)
    found = Counter(each["op_name"] for each in interpreter._get_ops_details())
    assert (found["QUANTIZE"], found["DEQUANTIZE"]) == (1, 1)
    known = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "MEAN", "PAD", "QUANTIZE", "DEQUANTIZE"}
    assert set(found) <= known


@pytest.mark.parametrize("base", FAMILIES)
def test_xnnpack_computes_all_but_the_reading_of_the_pixels(base: str) -> None:
    interpreter = Interpreter(model_content=made_of(base)[1], num_threads=1)
    interpreter.allocate_tensors()
    names = [each["op_name"] for each in interpreter._get_ops_details()]
    assert names[0] == "QUANTIZE"
    assert names.count("DELEGATE") == 1  # what it does not take cuts the graph, and there are more


@pytest.mark.parametrize("base", ["mobilenet_v2", "mobilenet_v3_large"])
def test_weights_and_biases_are_as_the_specification_has_them(base: str) -> None:
    """https://ai.google.dev/edge/litert/models/quantization_spec: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED."""
    model, tensors = tensors_of(made_of(base)[1])
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    seen = 0
    for operator in model.subgraphs[0].operators:
        kind = codes[model.operatorCodes[operator.opcodeIndex].builtinCode]
        if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        seen += 1
        image, weight, bias = (tensors[i] for i in operator.inputs)
        (made,) = (tensors[i] for i in operator.outputs)
        axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
        assert [kind_of(each) for each in (image, weight, bias, made)] == ["INT8", "INT8", "INT32", "INT8"]
        assert weight.quantization.quantizedDimension == axis
        assert len(weight.quantization.scale) == weight.shape[axis] == len(bias.quantization.scale)
        assert not np.any(weight.quantization.zeroPoint)
        assert not np.any(bias.quantization.zeroPoint)
        assert np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8).min() >= -127
        np.testing.assert_allclose(
            bias.quantization.scale, image.quantization.scale[0] * weight.quantization.scale, rtol=1e-6
        )
        for activations in (image, made):
            assert len(activations.quantization.scale) == 1
            assert -128 <= activations.quantization.zeroPoint[0] <= 127
    assert seen > 20


def bytes_by_name(interpreter: Interpreter) -> dict[str, np.ndarray]:
    return {
        each["name"]: interpreter.get_tensor(each["index"])
        for each in interpreter.get_tensor_details()
        if each["name"].endswith("_QuantizeLinear_Output")
    }


def test_a_hard_swish_is_right_to_the_byte() -> None:
    _, content = made_of("mobilenet_v3_small")
    pixels = patches(8, 32)
    _, interpreter = run(content, pixels, experimental_op_resolver_type=PLAIN, experimental_preserve_all_tensors=True)
    details = {each["name"]: each["quantization_parameters"] for each in interpreter.get_tensor_details()}
    values = bytes_by_name(interpreter)
    swishes = [name for name in values if "hard_swish_" in name]
    assert len(swishes) > 5
    assert max(np.ptp(values[name].astype(np.int64)) for name in swishes) > 150
    for name in swishes:
        before = name.replace(".hard_swish", "")
        scale, zero = details[before]["scales"][0], details[before]["zero_points"][0]
        x = (values[before].astype(np.float64) - zero) * scale
        step, middle = details[name]["scales"][0] / 6, details[name]["zero_points"][0]  # six times what it should be
        expected = np.clip(x * np.clip(x + 3, 0, 6) / 6 / step + middle, -128, 127)
        assert np.abs(values[name] - expected).max() < 0.6  # half a byte, and LiteRT's own kernel rounds twice


def test_rows_that_stay_float32_do_so_in_the_file() -> None:
    bundle, pixels = bundle_of("mobilenet_v3_small"), patches(16, 32)
    graph = prepared(to_onnx(bundle.spec, bundle.tensors, bundle.preprocess), bundle.preprocess, kernels="litert")
    found = calibrated(graph, pixels, method="minmax")
    rows = (
        "rows.0.",
        "rows.4.",
        "rows.12.",
        "head.",
        "logits",
    )  # the first one, one with a gate and hard-swish, the last
    floats = [node.name for node in graph.graph.node if node.name.startswith(rows)]
    model = quantized(graph, found, kernels="litert", floats=floats)
    expected = told(model, pixels)
    content = to_tflite(model, facts={})
    given, _ = run(content, pixels)
    assert np.abs(given - expected).max() < 0.05 * expected.std()
    _, tensors = tensors_of(content)
    kinds = {each.name.decode(): kind_of(each) for each in tensors}
    assert kinds["rows.4.depthwise.weight"] == kinds["head.classifier.weight"] == "FLOAT32"
    assert kinds["rows.3.depthwise.weight_DequantizeLinear_Output"] == "INT8"


def test_attention_stays_float32_between_bytes() -> None:
    bundle, pixels = bundle_of("mobilenet_v4_hybrid_medium"), patches(4, 32)
    model = graph_of(bundle, pixels)
    content = to_tflite(model, facts={})
    given, _ = run(content, pixels)
    expected = told(model, pixels)
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.98
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=PLAIN)
    found = Counter(each["op_name"] for each in interpreter._get_ops_details())
    assert found["SOFTMAX"] == sum(node.op_type == "Softmax" for node in model.graph.node) > 0
    _, tensors = tensors_of(content)
    weights = [each for each in tensors if each.name.decode().endswith("weight_DequantizeLinear_Output")]
    assert {kind_of(each) for each in weights} == {"INT8"}


def test_a_filter_of_zeros_is_opened_too() -> None:
    bundle, pixels = bundle_of("mobilenet_v2"), patches(8, 32)
    bundle.tensors["rows.0.conv.norm.weight"][3] = 0
    bundle.tensors["rows.0.conv.norm.bias"][:] *= 1e-3
    bundle.tensors["rows.0.conv.norm.weight"][:] *= 1e-3  # steps of the output far below those of the pixels
    model = graph_of(bundle, pixels)
    content = to_tflite(model, facts={})
    given, interpreter = run(content, pixels)
    assert np.isfinite(given).all()
    assert [each["op_name"] for each in interpreter._get_ops_details()].count("DELEGATE") == 1


def test_ranges_that_were_trained_are_taken() -> None:
    bundle, pixels = bundle_of("mobilenet_v3_small"), patches(16, 32)
    learned = {name: [2 * each.low, 2 * each.high] for name, each in starting_ranges(bundle, pixels).items()}
    trained = replace(bundle, history=(*bundle.history, {"step": "train", RANGES_KEY: learned}))
    made = [scales_of(FORMATS["tflite", "int8"](each, pixels)["model.tflite"]) for each in (bundle, trained)]
    name = "rows.1.project_QuantizeLinear_Output"
    assert made[1][name] == pytest.approx(2 * made[0][name], rel=1e-5)


def scales_of(content: bytes) -> Mapping[str, float]:
    _, tensors = tensors_of(content)
    return {
        each.name.decode(): float(each.quantization.scale[0])
        for each in tensors
        if each.quantization is not None and each.quantization.scale is not None and len(each.quantization.scale) == 1
    }


def test_the_file_is_a_quarter_of_float32() -> None:
    bundle = settled_bundle(compose("mobilenet_v1", resolution=32, stride="small", classes=3))
    whole, small = (len(FORMATS["tflite", each](bundle, patches(4, 32))["model.tflite"]) for each in ("fp32", "int8"))
    assert small < 0.28 * whole


def test_there_is_no_file_without_calibration_images() -> None:
    with pytest.raises(UsageError, match="int8 without calibration images"):
        FORMATS["tflite", "int8"](bundle_of("mobilenet_v1"), None)


def test_a_clip_of_bytes_outside_hard_swish_is_named() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(made_of("mobilenet_v3_small")[0])
    for node in model.graph.node:
        if node.op_type == "Mul" and node.name == "rows.0.conv.hard_swish.product":
            node.op_type = "Sub"
    with pytest.raises(SpecError, match=r"rows\.0\.conv\.hard_swish\.gate is a clip of bytes"):
        to_tflite(model, facts={})
