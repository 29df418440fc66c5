import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from making import catalogue, patches, settled_bundle
from mobilenets.arch import ArchSpec, compose, with_output_stride
from mobilenets.errors import FileFormatError
from mobilenets.export.onnx_graph import INPUT_NAME, to_onnx
from mobilenets.fit.latency import untrained_bundle
from mobilenets.nets import build
from mobilenets.train import forward_all


def answers(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT_NAME: pixels})[0]


def _agrees_with_torch(spec: ArchSpec) -> None:
    bundle = settled_bundle(spec)
    pixels = patches(3, spec.resolution, spec.channels)
    network = build(spec)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in bundle.tensors.items()}, strict=False)
    expected = forward_all(network, pixels, bundle.preprocess, device=torch.device("cpu"), dtype=torch.float32)
    given = answers(to_onnx(spec, bundle.tensors, bundle.preprocess), pixels)
    assert expected.std(axis=0).max() > 0.1
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("base", catalogue())
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("resolution", "channels"), [(32, 3), (37, 1)])
def test_the_graph_answers_like_the_torch_network(base: str, padding: str, resolution: int, channels: int) -> None:
    spec = compose(base, alpha=0.25, resolution=resolution, classes=7)
    spec = msgspec.structs.replace(spec, padding=padding, channels=channels)
    _agrees_with_torch(spec)


@pytest.mark.parametrize("base", catalogue())
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_held_stride_answers_like_the_torch_network(base: str, padding: str) -> None:
    spec = with_output_stride(compose(base, alpha=0.25, resolution=70, classes=7), 8)
    _agrees_with_torch(msgspec.structs.replace(spec, padding=padding))


def test_equal_means_become_one_number_and_the_answers_stay() -> None:
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    equal = msgspec.structs.replace(bundle.preprocess, mean=(0.5,) * 3, std=(0.25,) * 3)
    almost = msgspec.structs.replace(equal, mean=(0.5, 0.5, 0.5 + 1e-9))
    sizes, said = [], []
    for preprocess in (equal, almost):
        model = to_onnx(bundle.spec, bundle.tensors, preprocess)
        sizes.append({c.name: int(np.prod(c.dims)) for c in model.graph.initializer}["input.shift"])
        said.append(answers(model, patches(2, 32)))
    assert sizes == [1, 3]
    np.testing.assert_allclose(said[0], said[1], rtol=0, atol=1e-4 * float(np.abs(said[1]).max()))


def test_the_batch_is_free_and_pixels_are_bytes() -> None:
    bundle = settled_bundle(compose("mobilenet_v2", alpha=0.25, resolution=32, classes=3))
    model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    (inputs,) = model.graph.input
    assert inputs.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert inputs.type.tensor_type.shape.dim[0].dim_param == "batch"
    for count in (1, 5):
        assert answers(model, np.zeros((count, 32, 32, 3), np.uint8)).shape == (count, 3)


def test_an_untrained_network_of_every_row_type_can_be_exported_to_be_timed() -> None:
    for base in ("mobilenet_v3_small", "mobilenet_v4_conv_medium", "mobilenet_v4_hybrid_medium"):
        bundle = untrained_bundle(compose(base, alpha=0.25, resolution=32, classes=3))
        model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
        assert np.isfinite(answers(model, patches(2, 32))).all()


def test_a_layer_scale_and_the_factor_of_the_scores_are_folded_into_convolutions() -> None:
    bundle = settled_bundle(compose("mobilenet_v4_hybrid_medium", alpha=0.25, resolution=32, classes=3))
    model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    multiplied = [node.name for node in model.graph.node if node.op_type in ("Mul", "Div")]
    assert multiplied == ["input.scaled"]


def test_nodes_are_named_like_the_table_and_no_norm_is_left() -> None:
    bundle = settled_bundle(compose("mobilenet_v3_small", alpha=0.5, resolution=32, classes=3))
    model = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    names = {node.name for node in model.graph.node}
    assert {"rows.0.conv", "rows.4.depthwise", "rows.4.excite.squeeze", "head.pool"} <= names
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_a_missing_tensor_is_named() -> None:
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    tensors = {k: v for k, v in bundle.tensors.items() if k != "rows.2.project.conv.weight"}
    with pytest.raises(FileFormatError, match=r"rows\.2\.project\.conv\.weight"):
        to_onnx(bundle.spec, tensors, bundle.preprocess)
