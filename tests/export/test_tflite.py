"""LiteRT's answers are held against ONNX Runtime's: the same graph, read by two engines that share nothing."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from making import catalogue, patches, settled_bundle
from mobilenets.arch import CATALOG, ArchSpec, compose, with_output_stride
from mobilenets.errors import SpecError
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx
from mobilenets.export.tflite import to_tflite

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from ai_edge_litert.interpreter import Interpreter, OpResolverType


def _agrees_with_onnx_runtime(spec: ArchSpec) -> None:
    bundle = settled_bundle(spec)
    pixels = patches(3, spec.resolution, spec.channels)
    model = to_onnx(spec, bundle.tensors, bundle.preprocess)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {INPUT_NAME: pixels})
    interpreter = Interpreter(model_content=to_tflite(model, facts={}), num_threads=1)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, list(pixels.shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, pixels)
    interpreter.invoke()
    given = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert expected.std(axis=0).max() > 0.1
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("base", catalogue())
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("resolution", "channels"), [(32, 3), (37, 1)])
def test_the_file_answers_like_the_graph(base: str, padding: str, resolution: int, channels: int) -> None:
    spec = compose(base, alpha=0.25, resolution=resolution, classes=7)
    _agrees_with_onnx_runtime(msgspec.structs.replace(spec, padding=padding, channels=channels))


@pytest.mark.parametrize("base", catalogue())
def test_a_held_stride_answers_like_the_graph(base: str) -> None:
    _agrees_with_onnx_runtime(with_output_stride(compose(base, alpha=0.25, resolution=70, classes=7), 8))


def operators(content: bytes) -> Counter[str]:
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    return Counter(operator["op_name"] for operator in interpreter._get_ops_details())


@pytest.mark.parametrize("base", sorted(name for name in CATALOG if "hybrid" not in name))
def test_nothing_is_transposed_and_no_activation_stands_alone_that_a_convolution_can_do(base: str) -> None:
    bundle = settled_bundle(compose(base, alpha=0.25, resolution=32, classes=3))
    model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    found = operators(to_tflite(model, facts={}))
    assert not {"TRANSPOSE", "RESHAPE", "RELU", "RELU6"} & set(found)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert found["CONV_2D"] + found["DEPTHWISE_CONV_2D"] == convolutions
    # the mean of the pixels, and the residuals
    assert found["ADD"] == sum(node.op_type == "Add" for node in model.graph.node)


def test_same_padding_needs_no_pad_operators() -> None:
    spec = msgspec.structs.replace(compose("mobilenet_v2", alpha=0.25, resolution=37, classes=3), padding="same")
    bundle = settled_bundle(spec)
    assert operators(to_tflite(to_onnx(spec, bundle.tensors, bundle.preprocess), facts={}))["PAD"] == 0


def test_an_operator_that_is_not_known_is_named() -> None:
    node = helper.make_node("Tan", ["pixels"], ["logits"], name="strange")
    shape = ["batch", 4, 4, 3]
    graph = helper.make_graph(
        [node],
        "odd",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    with pytest.raises(SpecError, match="strange is a Tan"):
        to_tflite(onnx.helper.make_model(graph), facts={})
