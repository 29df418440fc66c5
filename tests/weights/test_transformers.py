from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mobilenets.arch import find
from mobilenets.errors import FileFormatError, UsageError
from mobilenets.weights import import_weights, offer, write_state_dict
from witness import apart, disturbed

transformers = pytest.importorskip("transformers", reason="transformers is in the extra [dev]")


def built(version: int, **config: object) -> nn.Module:
    torch.manual_seed(0)
    made = getattr(transformers, f"MobileNetV{version}Config")(**{"num_labels": 7, **config})
    network: nn.Module = getattr(transformers, f"MobileNetV{version}ForImageClassification")(made)
    return disturbed(network)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("version", "config"),
    [
        (1, {"depth_multiplier": 1.0}),
        (1, {"depth_multiplier": 0.25, "tf_padding": False}),
        (1, {"depth_multiplier": 0.75, "image_size": 192}),
        (2, {"depth_multiplier": 1.0}),
        (2, {"depth_multiplier": 0.35, "hidden_act": "relu", "layer_norm_eps": 1e-4}),
        (2, {"depth_multiplier": 1.4, "tf_padding": False}),
    ],
)
def test_logits_are_transformers_in_both_directions(version: int, config: dict[str, object], tmp_path: Path) -> None:
    network = built(version, **config)
    network.save_pretrained(tmp_path / "there")
    bundle = import_weights(tmp_path / "there")
    assert apart(network, bundle) < 1e-4
    alpha, size = config["depth_multiplier"], config.get("image_size", 224)
    usual = find(f"mobilenet_v{version}_{alpha}_{size}").name
    if "hidden_act" not in config:
        assert bundle.spec.name == usual
    assert bundle.spec.padding == ("symmetric" if config.get("tf_padding") is False else "same")
    assert bundle.spec.resolution == size

    out = tmp_path / "back.safetensors"
    offered, difference = write_state_dict(bundle, out, library="transformers")
    assert difference is not None
    assert difference < 1e-4
    again = eval(offered.code, {"transformers": transformers}).eval()
    from safetensors.torch import load_file

    again.load_state_dict(load_file(str(out)), strict=True)
    assert apart(again, bundle) < 1e-4


@pytest.mark.parity
def test_finegrained_output_and_an_expanding_first_block_are_read_from_the_tensors(tmp_path: Path) -> None:
    network = built(2, depth_multiplier=0.5, finegrained_output=False, first_layer_is_expansion=False)
    network.save_pretrained(tmp_path)
    bundle = import_weights(tmp_path)
    assert apart(network, bundle) < 1e-4
    assert bundle.spec.out_channels == 640
    assert bundle.spec.rows[1].expanded == 16
    with pytest.raises(UsageError, match="transformers cannot hold"):
        offer(bundle.spec, library="transformers")


@pytest.mark.parity
@pytest.mark.parametrize(("version", "alpha", "name"), [(1, 1.0, "mobilenetv1_100"), (2, 0.35, "mobilenetv2_035")])
def test_googles_weights_can_be_carried_on_to_timm(version: int, alpha: float, name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")
    network = built(version, depth_multiplier=alpha)
    network.save_pretrained(tmp_path)
    bundle = import_weights(tmp_path)
    offered, difference = write_state_dict(bundle, tmp_path / "there.pth", library="timm")
    assert difference is not None
    assert offered.code.startswith(f"timm.create_model('{name}', num_classes=7, pad_type='same', bn_eps=0.001")
    there = eval(offered.code, {"timm": timm}).eval()
    there.load_state_dict(torch.load(tmp_path / "there.pth", weights_only=True), strict=True)
    assert apart(there, bundle) < 1e-4


def hub_folder(folder: Path, version: int, **processor: object) -> Path:
    """As Google's repositories on the hub are: 1001 classes, of which the first is the background."""
    labels = {0: "background", **{index: f"thing {index}" for index in range(1, 1001)}}
    network = built(version, depth_multiplier=0.25 if version == 1 else 0.35, num_labels=1001, image_size=128)
    network.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {str(index): label for index, label in labels.items()}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    usual = {
        "crop_size": {"height": 128, "width": 128},
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 160},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**usual, **processor}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_the_background_class_goes_and_the_other_conventions_come_along(version: int, tmp_path: Path) -> None:
    folder = hub_folder(tmp_path, version)
    bundle = import_weights(folder)
    assert bundle.spec.head.classes == 1000
    assert bundle.labels[0] == "thing 1"
    assert bundle.history[0]["dropped"] == "background"
    assert (bundle.spec.norm.eps, bundle.spec.padding) == (1e-3, "same")
    # TensorFlow's keep probability stands where transformers expects the probability to drop.
    assert bundle.spec.head.dropout == pytest.approx(0.001 if version == 1 else 0.2)
    assert bundle.preprocess.crop_fraction == 128 / 160
    assert bundle.preprocess.mean == pytest.approx((0.5, 0.5, 0.5))
    kept = import_weights(folder, keep_background=True)
    assert kept.labels[:2] == ("background", "thing 1")
    assert np.array_equal(kept.tensors["head.classifier.weight"][1:], bundle.tensors["head.classifier.weight"])


def test_another_factor_than_1_by_255_ends_in_mean_and_deviation(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path, 1, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3)
    prepared = import_weights(folder).preprocess
    assert prepared.mean == pytest.approx((0.5,) * 3)
    assert prepared.std == pytest.approx((0.5,) * 3)


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        ({"resample": 1}, "resample = 1"),
        ({"size": {"height": 160, "width": 200}}, "size"),
        ({"size": {"shortest_edge": 100}}, "at least the crop's 128"),
        ({"crop_size": "all"}, "crop_size"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(
    processor: dict[str, object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError, match=told):
        import_weights(hub_folder(tmp_path, 1, **processor))


def test_without_a_config_the_usual_is_assumed_and_told(tmp_path: Path) -> None:
    network = built(1, depth_multiplier=0.25)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    bundle = import_weights(tmp_path / "weights.pth", known_as="hf:google/mobilenet_v1_0.25_128")
    assert "SAME padding" in bundle.history[0]["assumed"]
    assert (bundle.spec.padding, bundle.spec.resolution) == ("same", 128)
    assert bundle.preprocess.crop_fraction == 128 / 160
    assert apart(network, bundle) < 1e-4


def test_a_model_without_its_head_gets_a_fresh_classifier(tmp_path: Path) -> None:
    network = built(2, depth_multiplier=0.35)
    network.mobilenet_v2.save_pretrained(tmp_path)
    bundle = import_weights(tmp_path)
    assert bundle.untrained_classifier
    kept = network.mobilenet_v2.conv_1x1.convolution.weight.detach().numpy()
    assert np.array_equal(bundle.tensors["rows.18.conv.conv.weight"], kept)


def test_a_segmentation_network_on_a_mobilenet_is_no_classifier(tmp_path: Path) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, output_stride=8)
    transformers.MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match=r"segmentation_head|output_stride"):
        import_weights(tmp_path)


def test_an_activation_that_no_table_has_is_refused(tmp_path: Path) -> None:
    built(1, depth_multiplier=0.25, hidden_act="silu").save_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match="hidden_act = 'silu'"):
        import_weights(tmp_path)
