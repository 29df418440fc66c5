from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mobilenets.arch import cost, find
from mobilenets.bundle import Bundle
from mobilenets.errors import FileFormatError, UsageError
from mobilenets.records import Preprocess
from mobilenets.weights import import_weights, offer, to_state_dict, write_state_dict
from mobilenets.weights.places import slots
from mobilenets.weights.torchvision import places, torchvision_spec
from witness import apart, disturbed

torchvision = pytest.importorskip("torchvision", reason="torchvision is in the extra [train]")

NETWORKS = [
    ("mobilenet_v2", 1.0, False),
    ("mobilenet_v2", 0.5, False),
    ("mobilenet_v2", 1.4, False),
    ("mobilenet_v3_large", 1.0, False),
    ("mobilenet_v3_large", 0.75, False),
    ("mobilenet_v3_large", 1.0, True),
    ("mobilenet_v3_small", 1.0, False),
    ("mobilenet_v3_small", 0.75, True),
]
SHAPES = [
    *NETWORKS,
    ("mobilenet_v2", 0.35, False),
    ("mobilenet_v2", 0.75, False),
    ("mobilenet_v2", 1.3, False),
    ("mobilenet_v3_large", 0.35, True),
    ("mobilenet_v3_large", 1.25, True),
    ("mobilenet_v3_small", 0.5, False),
    ("mobilenet_v3_small", 1.5, False),
]


def built(
    family: str, width: float = 1.0, reduced: bool = False, *, classes: int = 7, **arguments: object
) -> nn.Module:
    more = {"reduced_tail": True} if reduced else {}
    network: nn.Module = getattr(torchvision.models, family)(
        weights=None, num_classes=classes, width_mult=width, **more, **arguments
    )
    return network


def saved(network: nn.Module, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, str(file))
    else:
        torch.save(network.state_dict(), file)
    return file


@pytest.mark.parametrize(("family", "width", "reduced"), SHAPES)
def test_every_width_has_torchvisions_tensors_by_name_and_shape(family: str, width: float, reduced: bool) -> None:
    with torch.device("meta"):
        theirs = built(family, width, reduced, classes=1000)
    spec = torchvision_spec(family, alpha=width, reduced_tail=reduced)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items() if "num_batches" not in key}
    assert {slot.theirs: slot.their_shape for slot in slots(places(spec, family))} == shapes
    assert cost(spec).parameters == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.parity
@pytest.mark.parametrize(("family", "width", "reduced"), NETWORKS)
def test_logits_are_torchvisions_in_both_directions(family: str, width: float, reduced: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = disturbed(built(family, width, reduced))
    bundle = import_weights(saved(network, tmp_path / ("in.pth" if width == 1 else "in.safetensors")))
    assert apart(network, bundle) < 1e-4
    assert bundle.history[0]["model"] == family
    if width == 1 and not reduced:
        assert bundle.spec.name == family
    elif family != "mobilenet_v2":  # torchvision's own widths have no name in our catalogue
        assert bundle.spec.name == f"{family}_of_torchvision"
    assert bundle.preprocess.crop_fraction == pytest.approx(224 / 256 if "small" in family else 224 / 232)

    out = tmp_path / "back.pth"
    offered, difference = write_state_dict(bundle, out, library="torchvision")
    assert difference is not None
    assert difference < 1e-4
    again = eval(offered.code, {"torchvision": torchvision, "torch": torch, "partial": partial}).eval()
    again.load_state_dict(torch.load(out, weights_only=True), strict=True)
    assert apart(again, bundle) < 1e-4
    assert ("width_mult" in offered.code, "reduced_tail" in offered.code) == (width != 1, reduced)


def test_published_files_are_known_by_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(built("mobilenet_v3_small", classes=1000), tmp_path / "renamed.pth")
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    digest = weights.url.rpartition("-")[2].removesuffix(".pth")
    monkeypatch.setattr("mobilenets.weights.state_dicts.sha256_of", lambda path: digest + "0" * 56)
    bundle = import_weights(file)
    assert bundle.history[0]["weights"] == "IMAGENET1K_V1"
    assert "assumed" not in bundle.history[0]
    assert bundle.labels[0] == "tench"


@pytest.mark.parametrize(("weights", "side"), [("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)])
def test_each_set_of_weights_has_its_own_preparation(weights: str, side: int, tmp_path: Path) -> None:
    file = saved(built("mobilenet_v2", classes=1000), tmp_path / "weights.pth")
    bundle = import_weights(file, known_as=f"torchvision:mobilenet_v2.{weights}")
    assert bundle.preprocess == Preprocess(resolution=224, crop_fraction=224 / side, interpolation="bilinear")
    assert bundle.history[0]["weights"] == weights
    with pytest.raises(UsageError, match="torchvision's mobilenet_v2, not mobilenet_v3_large"):
        import_weights(file, known_as="torchvision:mobilenet_v3_large")


def test_what_the_training_reference_saves_is_unwrapped_to_its_averaged_weights(tmp_path: Path) -> None:
    network = disturbed(built("mobilenet_v3_small", 0.5))
    averaged = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {"model": built("mobilenet_v3_small", 0.5).state_dict(), "epoch": 2}
    torch.save({**content, "model_ema": {"n_averaged": torch.tensor(3), **averaged}}, tmp_path / "checkpoint.pth")
    bundle = import_weights(tmp_path / "checkpoint.pth")
    assert bundle.history[0]["within"] == "model_ema"
    assert apart(network, bundle) < 1e-4


def test_norms_of_their_own_go_out_as_a_norm_layer(tmp_path: Path) -> None:
    network = disturbed(built("mobilenet_v2", 0.35, norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)))
    bundle = import_weights(saved(network, tmp_path / "in.pth"))
    eps = msgspec.structs.replace(bundle.spec.norm, eps=1e-3)  # an epsilon does not show in a state dict
    bundle = Bundle(
        spec=msgspec.structs.replace(bundle.spec, norm=eps),
        task="classify",
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        tensors=bundle.tensors,
    )
    assert apart(network, bundle) < 1e-4
    offered, _ = write_state_dict(bundle, tmp_path / "back.safetensors", library="torchvision")
    assert "norm_layer=partial(torch.nn.BatchNorm2d, eps=0.001, momentum=0.1)" in offered.code


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("mobilenet_v1", {}, "V2, V3-Large and V3-Small"),
        ("mobilenet_v4_conv_small", {}, "V2, V3-Large and V3-Small"),
        ("mobilenet_v2", {"padding": "same"}, "SAME padding"),
        ("mobilenet_v2", {"channels": 1}, "3 channels"),
        ("mobilenet_v3_large_0.75_224", {}, "its own widths"),  # the paper keeps 1280 channels there
    ],
)
def test_what_torchvision_cannot_hold_is_refused_with_the_reason(
    name: str, change: dict[str, object], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        offer(msgspec.structs.replace(find(name), **change), library="torchvision")


def test_weights_that_go_out_are_copies_with_every_name_that_torchvision_has(tmp_path: Path) -> None:
    network = built("mobilenet_v3_small")
    bundle = import_weights(saved(network, tmp_path / "in.pth"))
    state = to_state_dict(bundle, library="torchvision")
    assert set(state) == set(network.state_dict())
    assert {str(value.dtype) for value in state.values()} == {"float32", "int64"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.resnet18(num_classes=4),
        lambda: torchvision.models.efficientnet_b0(num_classes=4),
        lambda: torchvision.models.mnasnet0_5(num_classes=4),
        lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None),
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
    ],
    ids=["resnet", "efficientnet", "mnasnet", "detector", "segmenter"],
)
def test_other_networks_are_told_to_be_none_that_is_known(make, tmp_path: Path) -> None:
    network = make()
    file = saved(network, tmp_path / "weights.pth")
    with pytest.raises(FileFormatError, match="not a MobileNet classifier that is known") as caught:
        import_weights(file)
    first = next(iter(network.state_dict()))
    assert first in str(caught.value)
    assert ("detector or a segmenter" in str(caught.value)) == first.startswith("backbone")
