"""Keras' layouts, written here with h5py as Keras 2 and 3 lay them out, and files that nobody should trust."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from making import settled_bundle
from mobilenets.arch import ArchSpec, compose
from mobilenets.bundle import Bundle
from mobilenets.errors import FileFormatError
from mobilenets.weights import Imported, import_weights
from mobilenets.weights.keras import read_keras

Layers = dict[str, dict[str, np.ndarray]]  # layer: {part: array as Keras lays it out}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


@pytest.fixture(scope="session")
def v1() -> Bundle:
    return settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))


@pytest.fixture(scope="session")
def v3() -> Bundle:
    return settled_bundle(compose("mobilenet_v3_small", alpha=0.35, resolution=32, classes=3))


def conv_norm(tensors: Mapping[str, np.ndarray], ours: str, *, depthwise: bool = False) -> tuple[dict, dict]:
    kernel = tensors[f"{ours}.conv.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return {"kernel": kernel}, {part: tensors[f"{ours}.norm.{name}"] for part, name in NORM.items()}


def v1_layers(bundle: Bundle) -> Layers:
    tensors = bundle.tensors
    layers: Layers = {}
    layers["conv1"], layers["conv1_bn"] = conv_norm(tensors, "rows.0.conv")
    for i in range(1, 14):
        layers[f"conv_dw_{i}"], layers[f"conv_dw_{i}_bn"] = conv_norm(tensors, f"rows.{i}.depthwise", depthwise=True)
        layers[f"conv_pw_{i}"], layers[f"conv_pw_{i}_bn"] = conv_norm(tensors, f"rows.{i}.project")
    weight = tensors["head.classifier.weight"]
    layers["conv_preds"] = {"kernel": weight.T[None, None], "bias": tensors["head.classifier.bias"]}
    return layers


def v3_layers(bundle: Bundle, *, keras2: bool) -> Layers:
    """Keras 2 writes expanded_conv_1/expand/BatchNorm where Keras 3 writes expanded_conv_1_expand_bn."""
    tensors, between = bundle.tensors, "/" if keras2 else "_"
    norm = "/BatchNorm" if keras2 else "_bn"
    layers: Layers = {}

    def add(name: str, ours: str, *, depthwise: bool = False) -> None:
        layers[name], layers[f"{name}{norm}"] = conv_norm(tensors, ours, depthwise=depthwise)

    def add_plain(name: str, ours: str) -> None:
        weight = tensors[f"{ours}.weight"]
        kernel = weight.T[None, None] if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
        layers[name] = {"kernel": kernel, "bias": tensors[f"{ours}.bias"]}

    last = len(bundle.spec.rows) - 1
    add("Conv" if keras2 else "conv", "rows.0.conv")
    for i in range(1, last):
        block = "expanded_conv" if i == 1 else f"expanded_conv_{i - 1}"
        if i > 1:
            add(f"{block}{between}expand", f"rows.{i}.expand")
        add(f"{block}{between}depthwise", f"rows.{i}.depthwise", depthwise=True)
        if bundle.spec.rows[i].squeezed is not None:
            prefix = f"{block}{between}squeeze_excite{between}"
            add_plain(prefix + ("Conv" if keras2 else "conv"), f"rows.{i}.excite.squeeze")
            add_plain(prefix + ("Conv_1" if keras2 else "conv_1"), f"rows.{i}.excite.excite")
        add(f"{block}{between}project", f"rows.{i}.project")
    add("Conv_1" if keras2 else "conv_1", f"rows.{last}.conv")
    add_plain("Conv_2" if keras2 else "conv_2", "head.hidden")
    add_plain("Logits" if keras2 else "logits", "head.classifier")
    return layers


def class_of(parts: Mapping[str, np.ndarray]) -> str:
    if "gamma" in parts:
        return "batch_normalization"
    kernel = parts["kernel"]
    if kernel.ndim == 2:
        return "dense"
    return "depthwise_conv2d" if kernel.shape[0] > 1 and kernel.shape[3] == 1 else "conv2d"


def write_by_class(target: Path | io.BytesIO, layers: Layers, *, names: bool, root: str = "layers") -> None:
    """`.weights.h5`: groups by class, numbered; `names` as Keras keeps them since 3.10 or so."""
    counts: dict[str, int] = {}
    with h5py.File(target, "w") as file:
        for name, parts in layers.items():
            kind = class_of(parts)
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"{root}/{kind}_{number}/vars" if number else f"{root}/{kind}/vars")
            if names:
                group.attrs["name"] = name
            for index, array in enumerate(parts.values()):
                group[str(index)] = array


def write_by_attributes(target: Path, layers: Layers, *, inside: str | None = None) -> None:
    """`.h5` of Keras 2: names of layers and of weights as attributes; `inside`: the group of whole models."""
    with h5py.File(target, "w") as file:
        root = file if inside is None else file.create_group(inside)
        root.attrs["keras_version"] = "2.9.0"
        root.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        root.create_group("input_1").attrs["weight_names"] = []
        for name, parts in layers.items():
            depthwise = class_of(parts) == "depthwise_conv2d"
            renamed = {("depthwise_kernel" if depthwise else part): array for part, array in parts.items()}
            group = root.require_group(name)
            group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in renamed]
            for part, array in renamed.items():
                group[f"{name}/{part}:0"] = array


def assert_same(imported: Imported, bundle: Bundle) -> None:
    assert imported.spec.rows == bundle.spec.rows
    assert set(imported.tensors) == set(bundle.tensors)
    assert all(np.array_equal(imported.tensors[name], bundle.tensors[name]) for name in bundle.tensors)


@pytest.mark.parametrize("names", [True, False])
def test_the_layout_of_keras_3_is_read_with_names_and_without(v1: Bundle, v3: Bundle, names: bool, tmp_path) -> None:
    for bundle, layers in ((v1, v1_layers(v1)), (v3, v3_layers(v3, keras2=False))):
        path = tmp_path / "net.weights.h5"
        write_by_class(path, layers, names=names)
        imported = read_keras(path)
        assert_same(imported, bundle)
        assert ("layers" in imported.told) is not names


@pytest.mark.parametrize("inside", [None, "model_weights"])
def test_the_layout_of_keras_2_is_read_as_weights_and_in_whole_models(v1, v3, inside: str | None, tmp_path) -> None:
    for bundle, layers in ((v1, v1_layers(v1)), (v3, v3_layers(v3, keras2=True))):
        path = tmp_path / "net.h5"
        write_by_attributes(path, layers, inside=inside)
        imported = read_keras(path)
        assert_same(imported, bundle)
        assert imported.told["keras"] == "2.9.0"


def test_keras_conventions_come_along(v3: Bundle, tmp_path) -> None:
    path = tmp_path / "net.weights.h5"
    write_by_class(path, v3_layers(v3, keras2=False), names=True)
    bundle = import_weights(path)
    assert bundle.spec.padding == "same"
    assert (bundle.spec.norm.eps, bundle.spec.norm.momentum) == (1e-3, 0.001)
    assert bundle.preprocess.mean == bundle.preprocess.std == (0.5, 0.5, 0.5)
    assert bundle.preprocess.resolution == 224
    assert bundle.preprocess.crop_fraction == 0.875
    assert bundle.history[0]["from"] == "net.weights.h5"


def model_config(*layers: tuple[str, dict]) -> bytes:
    inner = [{"class_name": kind, "config": settings} for kind, settings in layers]
    return json.dumps({"class_name": "Functional", "config": {"layers": inner}}).encode()


def write_keras(path: Path, layers: Layers, config: bytes) -> None:
    content = io.BytesIO()
    write_by_class(content, layers, names=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", content.getvalue())


def test_a_models_own_resolution_epsilon_and_rescaling_are_kept(v1: Bundle, tmp_path) -> None:
    path = tmp_path / "net.keras"
    config = model_config(
        ("InputLayer", {"batch_shape": [None, 96, 96, 3]}),
        ("Rescaling", {"scale": 1 / 255, "offset": 0.0}),
        ("Rescaling", {"scale": 4.0, "offset": -2.0}),
        ("BatchNormalization", {"epsilon": 1e-5}),
    )
    write_keras(path, v1_layers(v1), config)
    imported = read_keras(path)
    assert imported.spec.resolution == imported.preprocess.resolution == 96
    assert imported.spec.norm.eps == 1e-5
    assert imported.preprocess.mean == pytest.approx((0.5,) * 3)
    assert imported.preprocess.std == pytest.approx((0.25,) * 3)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([("InputLayer", {"batch_shape": [None, 96, 64, 3]})], "96x64"),
        ([("Rescaling", {"scale": [1.0, 2.0, 3.0], "offset": 0.0})], "Rescaling"),
        ([("BatchNormalization", {"epsilon": 1e-3}), ("BatchNormalization", {"epsilon": 1e-5})], "epsilon"),
        ([("Dense", {"activation": "sigmoid"})], "sigmoid"),
    ],
)
def test_models_that_our_records_cannot_say_are_refused(v1: Bundle, layers, match: str, tmp_path) -> None:
    path = tmp_path / "net.keras"
    write_keras(path, v1_layers(v1), model_config(*layers))
    with pytest.raises(FileFormatError, match=match):
        read_keras(path)


def test_padding_at_odd_sizes_is_told_for_v1(v1: Bundle, tmp_path) -> None:
    path = tmp_path / "net.keras"
    for side, told in ((100, True), (96, False)):
        write_keras(path, v1_layers(v1), model_config(("InputLayer", {"batch_shape": [None, side, side, 3]})))
        assert ("padding" in read_keras(path).told) is told


def drop(layers: Layers) -> str:
    del layers["conv_pw_3"], layers["conv_dw_7_bn"]["beta"]
    return r"^8 tensors .*conv_pw_3/kernel \(1, 1, 32, 32\) is missing; conv_dw_7_bn/gamma \(128,\) is missing"


def reshape(layers: Layers) -> str:
    layers["conv_dw_5"]["kernel"] = layers["conv_dw_5"]["kernel"][:, :, :-1]
    return r"conv_dw_5/kernel is \(3, 3, 63, 1\), the table wants \(3, 3, 64, 1\)"


def add(layers: Layers) -> str:
    layers["dense_hidden"] = {"kernel": np.zeros((256, 8), np.float32), "bias": np.zeros(8, np.float32)}
    return r"dense_hidden/kernel \(256, 8\) has no place"


def spoil(layers: Layers) -> str:
    layers["conv_pw_2"]["kernel"][0, 0, 0, 0] = np.nan
    return "rows.2.project.conv.weight holds numbers that are not finite"


@pytest.mark.parametrize("change", [drop, reshape, add, spoil])
def test_misfits_are_told_key_by_key_and_shape_by_shape(v1: Bundle, change: Callable[[Layers], str], tmp_path) -> None:
    layers = {name: {part: array.copy() for part, array in parts.items()} for name, parts in v1_layers(v1).items()}
    match = change(layers)
    write_by_class(tmp_path / "net.weights.h5", layers, names=True)
    with pytest.raises(FileFormatError, match=match):
        import_weights(tmp_path / "net.weights.h5")


def test_another_network_is_refused_with_what_it_holds(tmp_path) -> None:
    layers: Layers = {f"conv{i}": {"kernel": np.zeros((3, 3, 3, 8), np.float32)} for i in range(5)}
    write_by_class(tmp_path / "net.weights.h5", layers, names=True)
    with pytest.raises(FileFormatError, match=r"conv0, conv1.*5 convolutions.*keras.applications"):
        read_keras(tmp_path / "net.weights.h5")


@pytest.mark.parametrize("keep", [0, 4, 700, 40_000, 100_000])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_that_are_cut_off_are_refused(v1: Bundle, keep: int, suffix: str, tmp_path) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".keras":
        write_keras(path, v1_layers(v1), model_config())
    else:
        write_by_class(path, v1_layers(v1), names=True)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileFormatError):
        read_keras(path)


def test_an_array_that_claims_more_than_the_file_holds_is_not_allocated(tmp_path) -> None:
    path = tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", shape=(1 << 20, 1 << 20, 3, 3), dtype="f4")
    with pytest.raises(FileFormatError, match="claims"):
        read_keras(path)


def test_a_list_of_names_that_is_far_too_long_is_not_read(tmp_path) -> None:
    with h5py.File(tmp_path / "net.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = np.zeros(200_000, "S16")
    with pytest.raises(FileFormatError, match="layer_names is too long"):
        read_keras(tmp_path / "net.h5")


def test_links_into_other_files_are_not_followed(v1: Bundle, tmp_path) -> None:
    write_by_class(tmp_path / "other.h5", v1_layers(v1), names=True)
    write_by_attributes(tmp_path / "other2.h5", v1_layers(v1))
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file["layers"] = h5py.ExternalLink("other.h5", "/layers")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file["conv1"] = h5py.ExternalLink("other2.h5", "/conv1")
    for name in ("net.weights.h5", "net.h5"):
        with pytest.raises(FileFormatError):
            read_keras(tmp_path / name)


def test_groups_that_hold_themselves_come_to_an_end(tmp_path) -> None:
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        group = file.create_group("layers")
        group["a"] = group["b"] = group
    with pytest.raises(FileFormatError, match=r"deep|objects"):
        read_keras(tmp_path / "net.weights.h5")


def test_a_zip_without_weights_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("README", "no")
    with pytest.raises(FileFormatError, match="README"):
        read_keras(tmp_path / "net.keras")


def test_grey_images_come_with_one_channel(tmp_path) -> None:
    spec: ArchSpec = compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3)
    grey = settled_bundle(spec)
    layers = v1_layers(grey)
    layers["conv1"]["kernel"] = layers["conv1"]["kernel"][:, :, :1]
    write_by_class(tmp_path / "net.weights.h5", layers, names=True)
    bundle = import_weights(tmp_path / "net.weights.h5")
    assert bundle.spec.channels == bundle.preprocess.channels == len(bundle.preprocess.mean) == 1
