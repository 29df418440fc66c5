from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mobilenets.arch import cost, find
from mobilenets.errors import FileFormatError, UnknownNameError, UsageError
from mobilenets.weights import import_weights, write_state_dict
from mobilenets.weights.places import slots
from mobilenets.weights.published import weights_of
from mobilenets.weights.timm import places
from mobilenets.weights.timm_models import MODELS, REFUSED, timm_model
from witness import apart, disturbed

timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")

FAST = [
    "mobilenetv1_100",
    "mobilenetv1_100h",
    "mobilenetv2_035",
    "mobilenetv2_050",
    "mobilenetv2_100",
    "mobilenetv2_140",
    "mobilenetv2_110d",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "mobilenetv3_small_075",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_large_100",
    "tf_mobilenetv3_large_minimal_100",
    "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_050",
    "mobilenetv4_hybrid_medium",
]


def made(name: str, *, classes: int = 7, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    gain = 1.3 if "hybrid" in name else 1.8
    network: nn.Module = disturbed(timm.create_model(name, num_classes=classes, **arguments), gain=gain)
    return network


def saved(network: nn.Module, file: Path) -> Path:
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, str(file))
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_timms_tensors_by_name_and_shape(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1000)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items() if "num_batches" not in key}
    model = timm_model(name)
    assert {slot.theirs: slot.their_shape for slot in slots(places(model.spec, model.stages))} == shapes
    assert cost(model.spec).parameters == sum(parameter.numel() for parameter in theirs.parameters())


def test_every_mobilenet_of_timm_is_known_or_refused_with_a_reason() -> None:
    assert set(timm.list_models("*mobilenetv[1-4]*")) == {*MODELS, *REFUSED}


@pytest.mark.parity
@pytest.mark.parametrize("name", FAST)
def test_logits_are_timms_in_both_directions(name: str, tmp_path: Path) -> None:
    network = made(name)
    file = saved(network, tmp_path / f"weights{'.pth' if 'v2' in name else '.safetensors'}")
    # What the tensors do not show has to be told; without, timm's own usual padding is assumed.
    bundle = import_weights(file, known_as=f"timm:{name}" if name.startswith("tf_") else None)
    assert apart(network, bundle) < 1e-4
    assert bundle.history[0]["model"] == name
    assert bundle.labels == tuple(f"class {index}" for index in range(7))

    out = tmp_path / ("back.safetensors" if "v2" in name else "back.pth")
    offered, difference = write_state_dict(bundle, out, library="timm")
    assert difference is not None
    assert difference < 1e-4
    again = eval(offered.code, {"timm": timm}).eval()
    state = torch.load(out, weights_only=True) if out.suffix == ".pth" else _load(out)
    again.load_state_dict(state, strict=True)
    assert apart(again, bundle) < 1e-4
    assert set(state) == set(network.state_dict())


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(FAST)))
def test_logits_are_timms_for_the_rest_too(name: str, tmp_path: Path) -> None:
    network = made(name)
    bundle = import_weights(saved(network, tmp_path / "weights.pth"), known_as=f"timm:{name}")
    assert apart(network, bundle) < 1e-4
    _, difference = write_state_dict(bundle, tmp_path / "back.pth", library="timm")
    assert difference is not None
    assert difference < 1e-4


@pytest.mark.parity
def test_grey_images_and_other_arguments_go_out_as_arguments_of_timm(tmp_path: Path) -> None:
    network = made("mobilenetv3_small_050", in_chans=1, bn_eps=1e-3, pad_type="same")
    folder = hub_folder(
        tmp_path,
        network,
        architecture="mobilenetv3_small_050",
        model_args={"in_chans": 1, "bn_eps": 1e-3, "pad_type": "same", "drop_rate": 0.1},
    )
    bundle = import_weights(folder)
    assert (bundle.spec.channels, bundle.spec.norm.eps, bundle.spec.padding) == (1, 1e-3, "same")
    assert bundle.preprocess.channels == len(bundle.preprocess.mean) == 1
    assert "averages" in bundle.history[0]["channels"]
    assert apart(network, bundle) < 1e-4
    offered, difference = write_state_dict(bundle, tmp_path / "back.pth", library="timm")
    assert "in_chans=1, pad_type='same', bn_eps=0.001" in offered.code
    assert difference is not None


def hub_folder(folder: Path, network: nn.Module, **config: object) -> Path:
    saved(network, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_classes": 7, **config}), encoding="utf-8")
    return folder


def test_a_hub_folder_brings_its_own_preparation_padding_licence_and_labels(tmp_path: Path) -> None:
    network = made("tf_mobilenetv3_small_minimal_100")
    names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
    config = {
        "tag": "mine",
        "input_size": [3, 160, 160],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "squash",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "license": "mit",
    }
    folder = hub_folder(
        tmp_path,
        network,
        architecture="tf_mobilenetv3_small_minimal_100",
        pretrained_cfg=config,
        label_names=names,
    )
    for source in (folder, folder / "model.safetensors"):
        bundle = import_weights(source)
        assert bundle.spec.name == "mobilenet_v3_small_minimalistic_1.0_160"
        assert (bundle.spec.padding, bundle.spec.norm.eps, bundle.spec.resolution) == ("same", 1e-3, 160)
        assert bundle.labels == tuple(names)
        prepared = bundle.preprocess
        assert (prepared.resize, prepared.crop_fraction, prepared.interpolation) == ("stretch", 0.9, "bilinear")
        assert (prepared.mean, prepared.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        assert bundle.history[0]["licence"] == "mit"
        assert "assumed" not in bundle.history[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"crop_mode": "border"}, "crop_mode = 'border'"),
        ({"interpolation": "lanczos"}, "interpolation = 'lanczos'"),
        ({"input_size": [3, 160, 224]}, "a square image"),
        ({"input_size": "large"}, "input_size = 'large'"),
    ],
)
def test_a_preparation_that_cannot_be_kept_is_refused(change: dict[str, object], told: str, tmp_path: Path) -> None:
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, **change}
    folder = hub_folder(tmp_path, made("mobilenetv3_small_050"), architecture="mobilenetv3_small_050")
    (folder / "config.json").write_text(
        json.dumps({"architecture": "mobilenetv3_small_050", "pretrained_cfg": cfg}), encoding="utf-8"
    )
    with pytest.raises(FileFormatError, match=told):
        import_weights(folder)


def test_arguments_that_change_the_network_unseen_are_refused(tmp_path: Path) -> None:
    folder = hub_folder(
        tmp_path,
        made("mobilenetv3_small_050"),
        architecture="mobilenetv3_small_050",
        model_args={"act_layer": "silu"},
    )
    with pytest.raises(FileFormatError, match="act_layer = 'silu'"):
        import_weights(folder)


def test_the_older_config_with_its_fields_at_the_top_is_read_too(tmp_path: Path) -> None:
    fields = {"input_size": [3, 192, 192], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "interpolation": "bilinear"}
    folder = hub_folder(tmp_path, made("mobilenetv3_small_050"), architecture="mobilenetv3_small_050", **fields)
    prepared = import_weights(folder).preprocess
    assert (prepared.resolution, prepared.mean) == (192, (0.1, 0.2, 0.3))


@pytest.mark.parametrize("name", ["blocks.0.99999999999.conv_dw.weight", "blocks.99999999999.0.conv_dw.weight"])
def test_a_name_with_a_huge_number_builds_no_huge_network(name: str, tmp_path: Path) -> None:
    state = {**made("mobilenetv3_small_050").state_dict(), name: torch.zeros(1)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(FileFormatError, match="left over"):
        import_weights(tmp_path / "weights.pth")


def test_what_is_assumed_is_told_and_what_is_known_is_not_assumed(tmp_path: Path) -> None:
    file = saved(made("mobilenetv3_small_050"), tmp_path / "weights.pth")
    assumed = import_weights(file)
    assert "mobilenetv3_small_050.lamb_in1k" in assumed.history[0]["assumed"]
    assert "padding" in assumed.history[0]["assumed"]
    known = import_weights(file, known_as="timm:mobilenetv3_small_050.lamb_in1k")
    assert "assumed" not in known.history[0]
    assert known.history[0]["weights"] == "lamb_in1k"
    assert known.history[0]["licence"] == "apache-2.0"
    assert known.preprocess == assumed.preprocess


def test_the_training_scripts_own_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    from argparse import Namespace

    network = made("mobilenetv3_small_075")
    other = made("mobilenetv3_small_075")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    torch.save(
        {
            "epoch": 3,
            "arch": "tf_mobilenetv3_small_075",
            "state_dict": other.state_dict(),
            "state_dict_ema": {f"module.{key}": value for key, value in network.state_dict().items()},
            "args": Namespace(model="tf_mobilenetv3_small_075", lr=0.1),
        },
        tmp_path / "model_best.pth.tar",
    )
    bundle = import_weights(tmp_path / "model_best.pth.tar")
    assert bundle.history[0]["within"] == "state_dict_ema"
    assert (bundle.spec.padding, bundle.spec.norm.eps) == ("same", 1e-3)
    same = timm.create_model("tf_mobilenetv3_small_075", num_classes=7)
    same.load_state_dict(network.state_dict())
    assert apart(same.eval(), bundle) < 1e-4


def test_a_file_without_a_classifier_gets_a_fresh_one_and_says_so(tmp_path: Path) -> None:
    network = made("mobilenetv3_small_050", classes=0)
    bundle = import_weights(saved(network, tmp_path / "weights.pth"))
    assert bundle.untrained_classifier
    assert bundle.spec.head.hidden == 1024
    hidden = network.state_dict()["conv_head.weight"].numpy().reshape(1024, -1)
    assert (bundle.tensors["head.hidden.weight"] == hidden).all()


def test_widths_of_nobodys_multiplier_are_read_from_the_shapes(tmp_path: Path) -> None:
    from timm.models.efficientnet import _gen_mobilenet_v2

    torch.manual_seed(0)
    network = disturbed(_gen_mobilenet_v2("mobilenetv2_100", 0.25, num_classes=3))
    bundle = import_weights(saved(network, tmp_path / "weights.pth"))
    assert bundle.spec.name == find("mobilenet_v2_0.25_224").name
    assert apart(network, bundle) < 1e-4
    with pytest.raises(UsageError, match=r"timm cannot hold mobilenet_v2_0\.25_224"):
        write_state_dict(bundle, tmp_path / "back.pth", library="timm")


def test_a_state_dict_of_another_width_than_it_is_said_to_be_is_explained_in_timms_names(tmp_path: Path) -> None:
    file = saved(made("mobilenetv2_050"), tmp_path / "weights.pth")
    with pytest.raises(FileFormatError) as caught:
        import_weights(file, known_as="timm:mobilenetv2_100")
    assert "conv_stem.weight is (16, 3, 3, 3), wanted (32, 3, 3, 3)" in str(caught.value)
    assert "more" in str(caught.value)


def test_missing_left_over_and_misshapen_tensors_are_told_by_name(tmp_path: Path) -> None:
    state = dict(made("mobilenetv3_small_050").state_dict())
    del state["blocks.1.1.bn2.running_var"]
    state["blocks.2.0.conv_dw.weight"] = state["blocks.2.0.conv_dw.weight"][..., :3, :3]
    state["extra.weight"] = torch.zeros(2)
    state["bn1.weight"] = torch.full((16,), float("nan"))
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(FileFormatError) as caught:
        import_weights(tmp_path / "weights.pth")
    for told in (
        "taken for mobilenet_v3_small",
        "4 tensors do not fit",
        "blocks.1.1.bn2.running_var (56,) is missing",
        "blocks.2.0.conv_dw.weight is (64, 1, 3, 3), wanted (64, 1, 5, 5)",
        "extra.weight (2,) is left over",
        "bn1.weight holds numbers that are not finite",
    ):
        assert told in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "efficientnet_lite0", "mobilenetv3_rw"])
def test_other_networks_of_timm_are_not_taken_for_mobilenets(name: str, tmp_path: Path) -> None:
    file = saved(timm.create_model(name, num_classes=5), tmp_path / "weights.pth")
    with pytest.raises(FileFormatError):
        import_weights(file)


def test_networks_that_cannot_be_told_by_their_tensors_are_refused_by_name(tmp_path: Path) -> None:
    file = saved(made("mobilenetv3_small_050"), tmp_path / "weights.pth")
    with pytest.raises(FileFormatError, match="averages before its strides"):
        import_weights(file, known_as="timm:mobilenetv4_conv_aa_large")
    with pytest.raises(UnknownNameError, match="mobilenetv3_small_050"):
        import_weights(file, known_as="timm:mobilenetv3_small_005")
    with pytest.raises(UnknownNameError, match="lamb_in1k"):
        import_weights(file, known_as="timm:mobilenetv3_small_050.lam_in1k")
    with pytest.raises(UsageError, match="of timm, not of torchvision"):
        import_weights(file, known_as="torchvision:mobilenet_v2")
    with pytest.raises(UsageError, match="name the library"):
        import_weights(file, known_as="mobilenetv3_small_050")


def test_the_table_of_published_weights_is_what_timm_says() -> None:
    for one in weights_of("timm"):
        theirs = timm.get_pretrained_cfg(one.name)
        assert theirs is not None, one.name
        prepared = one.preprocess
        assert (prepared.resolution, prepared.crop_fraction) == (theirs.input_size[1], theirs.crop_pct), one.name
        assert (prepared.mean, prepared.std) == (tuple(theirs.mean), tuple(theirs.std)), one.name
        assert prepared.interpolation == theirs.interpolation, one.name
        assert (one.repository, one.classes, one.licence) == (theirs.hf_hub_id, theirs.num_classes, theirs.license)
        assert one.default == (timm.get_pretrained_cfg(one.model).tag == one.weights), one.name
    published = {name for name in timm.list_pretrained("*mobilenetv*") if name.partition(".")[0] in MODELS}
    assert {one.name for one in weights_of("timm")} == published


def _load(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = load_file(str(file))
    return state
