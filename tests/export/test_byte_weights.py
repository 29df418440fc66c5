"""Weights as bytes: a quarter of the file; float32 when it runs, or bytes whose ranges are found then."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.export.byte_weights import with_byte_weights, with_dynamic_bytes
from mobilenets.export.int8.weights import rounded, weight_steps
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    bundle = settled_bundle(compose("mobilenet_v3_small", alpha=0.25, resolution=32, stride="small", classes=5))
    return to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)


def test_every_filter_and_matrix_is_bytes_and_nothing_else_is(graph: onnx.ModelProto) -> None:
    before, after = (
        {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        for model in (graph, with_byte_weights(graph))
    )
    read = {node.input[1] for node in graph.graph.node if node.op_type in ("Conv", "Gemm")}
    assert set(after) == (set(before) - read) | {f"{n}.bytes" for n in read} | {f"{n}.steps" for n in read}
    for name in read:
        assert after[f"{name}.bytes"].dtype == np.int8
        given = after[f"{name}.bytes"] * after[f"{name}.steps"]
        np.testing.assert_allclose(given, rounded(before[name], weight_steps(before[name], in_pairs=False)), rtol=1e-6)


def test_the_file_is_about_a_quarter(graph: onnx.ModelProto) -> None:
    weights = sum(onnx.numpy_helper.to_array(each).nbytes for each in graph.graph.initializer if len(each.dims) > 1)
    saved = graph.ByteSize() - with_byte_weights(graph).ByteSize()
    assert saved == pytest.approx(0.75 * weights, rel=0.15)


def test_what_runs_is_what_runs_in_float32(graph: onnx.ModelProto, tmp_path: Path) -> None:
    ran = []
    for model in (graph, with_byte_weights(graph)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "fused.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        ran.append(Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node))
    assert ran[0] == ran[1]


def answers(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """One by one: what is found when the file runs is found for one image."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT_NAME: image[None]})[0] for image in pixels])


def test_dynamic_bytes_multiply_everything_but_depthwise_filters(graph: onnx.ModelProto) -> None:
    made = with_dynamic_bytes(graph)
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (graph, made))
    depthwise = sum(a.name == "group" and a.i > 1 for node in graph.graph.node for a in node.attribute)
    assert depthwise
    assert after["Conv"] == depthwise
    assert after["ConvInteger"] == before["Conv"] - depthwise
    assert (after["MatMulInteger"], after["Gemm"]) == (before["Gemm"], 0)
    floats = [each for each in made.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(onnx.numpy_helper.to_array(each).size for each in floats) <= max(
        onnx.numpy_helper.to_array(each).shape[0] for each in graph.graph.initializer if len(each.dims) > 1
    )
    onnx.checker.check_model(made, full_check=True)


def test_unsigned_weights_are_convolved_without_being_cut_off_on_this_processor() -> None:
    """That is why their steps need not be coarser: 64 products of 255 by 255 would overflow 16 bits by far."""
    drawn = np.random.default_rng(0)
    pixels, weight = (255 * drawn.integers(0, 2, shape) for shape in ((1, 64, 9, 9), (96, 64, 3, 3)))
    constants = {"weight": weight, "zero": np.array(7), "middle": np.array(128)}
    convolution = onnx.helper.make_graph(
        [onnx.helper.make_node("ConvInteger", [INPUT_NAME, *constants], ["sums"])],
        "convolution",
        [onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, pixels.shape)],
        [onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, None)],
        [onnx.numpy_helper.from_array(value.astype(np.uint8), name) for name, value in constants.items()],
    )
    given = answers(onnx.helper.make_model(convolution, ir_version=8), pixels.astype(np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(pixels - 7, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(given, np.einsum("nchwij,ocij->nohw", windows, weight - 128))


@pytest.mark.parametrize("base", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_hybrid_medium"])
def test_dynamic_bytes_answer_like_float32_whatever_the_range_of_an_image(base: str) -> None:
    bundle = settled_bundle(compose(base, alpha=0.25, resolution=32, stride="small", classes=5))
    model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    made, pixels = with_dynamic_bytes(model), patches(32, 32)
    for images in (pixels, pixels // 8 + 100):  # as few values as a dark picture has
        given, expected = (answers(each, images) for each in (made, model))
        assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.9
        assert not np.array_equal(given, expected)
