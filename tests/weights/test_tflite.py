"""The reader of TensorFlow Lite files, on files written from networks that are known, in every converter's style."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from making import settled_bundle
from mobilenets.arch import ArchSpec, compose, with_channels, with_classes
from mobilenets.bundle import Bundle
from mobilenets.nets import Network, load_tensors
from mobilenets.weights import import_weights, to_bundle
from mobilenets.weights.imported import Imported
from mobilenets.weights.tflite import read_tflite
from weights.tflite_tables import DILATED, TABLES, V1, V2, V3, V4
from weights.tflite_writer import Style, write

CLOSE = 2e-5  # of logits, as a part of the largest


def read(content: bytes, folder: Path, name: str = "some.tflite") -> Imported:
    (folder / name).write_bytes(content)
    return read_tflite(folder / name)


def inputs(spec: ArchSpec, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand((count, spec.channels, spec.resolution, spec.resolution), generator=generator) * 2 - 1


def answers(spec: ArchSpec, tensors: dict, images: torch.Tensor) -> np.ndarray:
    network = Network(spec)
    load_tensors(network, tensors)
    with torch.no_grad():
        return network.eval()(images).numpy()


def vectors(spec: ArchSpec, tensors: dict, images: torch.Tensor) -> np.ndarray:
    """What the classifier is given."""
    network, seen = Network(spec), []
    load_tensors(network, tensors)
    network.head.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy()))
    with torch.no_grad():
        network.eval()(images)
    return seen[0]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def assert_same(imported: Imported, bundle: Bundle, *, close: float = CLOSE) -> None:
    assert imported.spec.rows == bundle.spec.rows
    assert imported.spec.padding == bundle.spec.padding
    assert imported.spec.resolution == bundle.spec.resolution
    images = inputs(bundle.spec)
    expected = answers(bundle.spec, bundle.tensors, images)
    assert expected.std(axis=0).max() > 0.01  # the images are told apart, or nothing would be shown
    assert apart(answers(imported.spec, imported.tensors, images), expected) < close


def litert(content: bytes, images: torch.Tensor) -> np.ndarray:
    """What LiteRT says of the same numbers."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images.permute(0, 2, 3, 1).numpy():
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(out["index"]).reshape(-1))
    return np.stack(found)


STYLES = {
    "plain": Style(),
    "pad operators": Style(padding="separate"),
    "dense, no softmax": Style(classifier="dense", softmax=False),
    "matmul": Style(classifier="matmul"),
    "slim's hard swish": Style(hard_swish="slim", gate="folded", pooling="average_pool"),
    "toco's hard swish": Style(hard_swish="toco", gate="keras"),
    "keras' hard swish": Style(hard_swish="keras", gate="keras", pooling="sum"),
    "activations apart": Style(activations="separate"),
    "bounds": Style(activations="bounds"),
    "norms left": Style(norms="left"),
    "norms left, all apart": Style(norms="left", padding="separate", hard_swish="slim", classifier="dense"),
    "channels first": Style(layout="channels_first"),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("style", STYLES)
def test_every_row_in_every_style_comes_back_with_its_answers(name: str, style: str, tmp_path: Path) -> None:
    bundle = settled_bundle(TABLES[name])
    assert_same(read(write(bundle, STYLES[style]), tmp_path), bundle, close=2e-4 if "swish" in style else CLOSE)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("style", ["plain", "pad operators", "slim's hard swish", "norms left"])
def test_litert_says_of_the_file_what_the_import_says(name: str, style: str, tmp_path: Path) -> None:
    bundle = settled_bundle(TABLES[name])
    content = write(bundle, msgspec_replace(STYLES[style], softmax=False))
    imported, images = read(content, tmp_path), inputs(bundle.spec)
    assert apart(answers(imported.spec, imported.tensors, images), litert(content, images)) < 2e-4


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("padding", ["operator", "separate"])
def test_symmetric_padding_is_told_from_same(name: str, padding: str, tmp_path: Path) -> None:
    bundle = settled_bundle(msgspec.structs.replace(TABLES[name], padding="symmetric"))
    assert_same(read(write(bundle, Style(padding=padding)), tmp_path), bundle)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("numbers", ["float16", "dynamic", "int4", "uint8", "int8"])
def test_weights_of_every_kind_come_back_to_within_half_a_step(name: str, numbers: str, tmp_path: Path) -> None:
    bundle = settled_bundle(TABLES[name])
    imported = read(write(bundle, Style(numbers=numbers)), tmp_path)  # type: ignore[arg-type]
    assert imported.spec.rows == bundle.spec.rows
    plain = read(write(bundle), tmp_path)
    for tensor, exact in plain.tensors.items():
        found = imported.tensors[tensor]
        if tensor.endswith("weight") and exact.ndim > 1:
            match numbers:
                case "float16":
                    half = np.abs(exact) * 2**-11 + 1e-6
                case "uint8":
                    half = np.full_like(exact, (max(exact.max(), 0) - min(exact.min(), 0)) / 255 * 0.501)
                case _:
                    steps = 7 if numbers == "int4" else 127
                    each = np.abs(exact).reshape(len(exact), -1).max(axis=1) / steps * 0.501
                    half = np.broadcast_to(each.reshape(-1, *[1] * (exact.ndim - 1)), exact.shape)
            # uint8's zero point is rounded too, so that its largest weights may be a step off.
            assert (np.abs(found - exact) <= (2 if numbers == "uint8" else 1) * half).all(), tensor
            assert np.abs(found - exact).max() > 0 or exact.size < 4, tensor
        else:
            np.testing.assert_allclose(found, exact, atol=2e-6 if numbers != "float16" else 2e-3)


def test_a_network_with_float16_weights_answers_almost_like_its_source(tmp_path: Path) -> None:
    bundle = settled_bundle(V3)
    assert_same(read(write(bundle, Style(numbers="float16")), tmp_path), bundle, close=5e-3)


@pytest.mark.parametrize("numbers", ["uint8", "int8"])
def test_the_inputs_quantisation_becomes_mean_and_deviation(numbers: str, tmp_path: Path) -> None:
    """Scale 1/64 and zero point 100 of raw bytes, which an int8 file holds 128 lower."""
    preprocess = read(write(settled_bundle(V1), Style(numbers=numbers)), tmp_path).preprocess  # type: ignore[arg-type]
    np.testing.assert_allclose(preprocess.mean, [100 / 255] * 3, rtol=1e-6)
    np.testing.assert_allclose(preprocess.std, [64 / 255] * 3, rtol=1e-6)
    assert (preprocess.resize, preprocess.crop_fraction, preprocess.interpolation) == (
        "shorter_side",
        0.875,
        "bilinear",
    )


@pytest.mark.parametrize(
    ("style", "padding", "mean", "std", "said"),
    [
        (Style(), "same", 0.5, 0.5, "assumed"),
        (Style(), "symmetric", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "assumed"),
        (Style(normalization=(127.0, 64.0)), "same", 127 / 255, 64 / 255, "metadata"),
        (Style(normalization=(0.0, 255.0), rescaling=(2.0, -1.0)), "same", 0.5, 0.5, "metadata"),
        (Style(rescaling=(1 / 127.5, -1.0)), "same", 0.5, 0.5, r"[0, 255]"),
        (Style(rescaling=(2.0, -1.0)), "same", 0.5, 0.5, r"[0, 1]"),
        (Style(rescaling=(1 / 0.25, -0.45 / 0.25)), "same", 0.45, 0.25, r"[0, 1]"),
        (Style(rescaling=(1 / 127.5, -1.0), layout="channels_first"), "same", 0.5, 0.5, r"[0, 255]"),
        (Style(numbers="int8", quantised_here=(1 / 127.5, 0)), "symmetric", 0.5, 0.5, r"[-1, 1], for those the file"),
        (Style(numbers="int8", quantised_here=(1 / 255, -128)), "same", 0.0, 1.0, r"[0, 1], for those the file"),
        (Style(numbers="int8", quantised_here=(1.0, -128)), "same", 0.0, 1 / 255, r"[0, 255], for those the file"),
    ],
)
def test_float_files_say_how_they_want_pixels_or_it_is_told_as_an_assumption(
    style: Style, padding: str, mean: object, std: object, said: str, tmp_path: Path
) -> None:
    bundle = settled_bundle(msgspec.structs.replace(V1, padding=padding))
    imported = read(write(bundle, style), tmp_path)
    np.testing.assert_allclose(imported.preprocess.mean, np.broadcast_to(mean, 3), rtol=1e-5, atol=1e-9)  # type: ignore[arg-type]
    np.testing.assert_allclose(imported.preprocess.std, np.broadcast_to(std, 3), rtol=1e-5)  # type: ignore[arg-type]
    assert said in imported.told["input"]
    if style.numbers == "float32":
        assert_same(imported, bundle)


def test_grey_images_are_imported_too(tmp_path: Path) -> None:
    bundle = settled_bundle(with_channels(V1, 1))
    assert_same(read(write(bundle), tmp_path), bundle)


def test_an_odd_map_has_the_same_padding_either_way_and_tensorflow_is_taken(tmp_path: Path) -> None:
    bundle = settled_bundle(msgspec.structs.replace(V2, resolution=33))
    assert_same(read(write(bundle), tmp_path), bundle)


# Names


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v1_0.25_64", "mobilenet_v2_0.35_64", "mobilenet_v3_small_0.75_64", "mobilenet_v4_conv_small_0.5_64"],
)
def test_a_catalogue_network_is_recognised_by_its_rows(name: str, tmp_path: Path) -> None:
    base, alpha, side = name.rsplit("_", 2)
    spec = msgspec.structs.replace(
        compose(base, alpha=float(alpha), resolution=int(side), classes=5),
        padding="same",
        norm=msgspec.structs.replace(V1.norm),
    )
    bundle = settled_bundle(spec)
    imported = read(write(bundle), tmp_path)
    assert imported.spec.name == name
    assert imported.spec == spec
    assert_same(imported, bundle)


def test_a_feature_extractor_of_v3_has_its_name_without_the_hidden_layer(tmp_path: Path) -> None:
    spec = compose("mobilenet_v3_small", alpha=0.75, resolution=64, classes=5)
    bundle = settled_bundle(msgspec.structs.replace(spec, padding="same", norm=V1.norm))
    imported = read(write(bundle, Style(end="mean")), tmp_path)
    assert imported.spec.name == "mobilenet_v3_small_0.75_64"
    assert imported.spec.head.hidden is None
    images = inputs(imported.spec)
    with torch.no_grad():
        network = Network(bundle.spec).eval()
        load_tensors(network, bundle.tensors)
        expected = images
        for row in network.rows:
            expected = row(expected)
    found = vectors(imported.spec, imported.tensors, images)
    assert apart(found, expected.mean((2, 3)).numpy()) < CLOSE


def test_another_network_is_named_after_its_file(tmp_path: Path) -> None:
    assert read(write(settled_bundle(V2)), tmp_path, "my net (1).tflite").spec.name == "tflite_my_net_1_"


# Labels and classes


def test_labels_travel_in_the_file_and_the_background_is_taken_off(tmp_path: Path) -> None:
    bundle = settled_bundle(with_classes(V1, 1001))
    labels = ("background", *(f"thing {i}" for i in range(1000)))
    imported = read(write(bundle, Style(labels=labels)), tmp_path)
    assert imported.labels == labels
    assert imported.told["licence"] == "CC0"
    made = to_bundle(imported)
    assert made.labels == labels[1:]
    images = inputs(bundle.spec)
    expected = answers(bundle.spec, bundle.tensors, images)[:, 1:]
    assert apart(answers(made.spec, made.tensors, images), expected) < CLOSE


def test_labels_that_do_not_fit_are_left_alone(tmp_path: Path) -> None:
    assert read(write(settled_bundle(V1), Style(labels=("one", "two"))), tmp_path).labels is None


def test_the_command_reads_what_the_reader_reads(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(write(settled_bundle(V1), Style(labels=tuple("abcdefg"))))
    bundle = import_weights(tmp_path / "net.tflite")
    assert bundle.labels == tuple("abcdefg")
    assert bundle.history[0]["norms"] == "folded"
    assert bundle.history[0]["from"] == "net.tflite"


# Feature extractors


@pytest.mark.parametrize(("spec", "end"), [(V2, "mean"), (V2, "map"), (V2, "unit"), (V3, "hidden")])
def test_a_feature_extractor_gives_the_classifier_the_features_of_the_file(
    spec: ArchSpec, end: str, tmp_path: Path
) -> None:
    bundle = settled_bundle(spec)
    imported = read(write(bundle, Style(end=end)), tmp_path)  # type: ignore[arg-type]
    assert imported.spec.rows == spec.rows
    assert imported.told["classifier"] == "none in the file"
    assert ("l2_normalization" in imported.told) == (end == "unit")
    images = inputs(spec)
    expected = vectors(bundle.spec, bundle.tensors, images)
    assert apart(vectors(imported.spec, imported.tensors, images), expected) < CLOSE
    assert to_bundle(imported).untrained_classifier


@pytest.mark.parametrize("spec", [V1, V2, DILATED])
def test_a_segmentation_network_is_imported_as_its_backbone(spec: ArchSpec, tmp_path: Path) -> None:
    bundle = settled_bundle(spec)
    imported = read(write(bundle, Style(end="segmentation")), tmp_path)
    assert imported.spec.rows == spec.rows
    assert "left out: what follows operator" in imported.told["segmentation_head"]
    images = inputs(spec)
    expected = vectors(bundle.spec, bundle.tensors, images)
    assert apart(vectors(imported.spec, imported.tensors, images), expected) < CLOSE


def test_a_classifier_behind_l2_normalisation_ranks_alike_where_it_has_no_bias(tmp_path: Path) -> None:
    bundle = settled_bundle(V2)
    weight = {**bundle.tensors, "head.classifier.bias": np.zeros(7, np.float32)}
    content = write(Bundle(**{**vars(bundle), "tensors": weight}), Style(end="unit_classifier"))
    imported, images = read(content, tmp_path), inputs(V2, 16)
    found = answers(imported.spec, imported.tensors, images)
    assert (found.argsort(axis=1) == litert(content, images).argsort(axis=1)).all()
    assert "chances" in imported.told["l2_normalization"]
    with_bias = read(write(bundle, Style(end="unit_classifier")), tmp_path)
    assert with_bias.told["classifier"] == "none in the file"


def test_dilated_rows_are_imported_with_their_dilation(tmp_path: Path) -> None:
    assert [getattr(row, "dilation", 1) for row in read(write(settled_bundle(DILATED)), tmp_path).spec.rows] == [
        1,
        1,
        2,
        3,
        2,
    ]


def test_v4_rows_keep_their_kind(tmp_path: Path) -> None:
    assert read(write(settled_bundle(V4)), tmp_path).spec.rows == V4.rows


def msgspec_replace(style: Style, **changes: object) -> Style:
    return Style(**{**vars(style), **changes})  # type: ignore[arg-type]
