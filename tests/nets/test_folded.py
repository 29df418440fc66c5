"""Layers that only answer: as the stock ones, and only where nobody wants more of them."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenets.arch import compose
from mobilenets.arch.layers import Layer
from mobilenets.arch.spec import Norm
from mobilenets.nets import build
from mobilenets.nets import folded as module
from mobilenets.nets.onednn import has_fused_convolutions
from mobilenets.nets.parts import ConvNormAct
from mobilenets.train.transfer import freeze_rows, train_unfrozen

NORM = Norm(eps=1e-3, momentum=0.1)


def full(inputs: int, outputs: int, **more: Any) -> Layer:
    return Layer(name="layer", kind="conv", in_channels=inputs, out_channels=outputs, **more)


def depthwise(channels: int, **more: Any) -> Layer:
    return Layer(name="layer", kind="depthwise", in_channels=channels, out_channels=channels, groups=channels, **more)


LAYERS = {
    "1x1": full(24, 40),
    "3x3, stride 2": full(3, 16, kernel=3, stride=2),
    "1x1, bias, no norm": full(8, 12, bias=True, norm=False),
    "1x1, bias and norm": full(8, 12, bias=True),
    "depthwise 3x3": depthwise(24, kernel=3),
    "depthwise 5x5, stride 2": depthwise(12, kernel=5, stride=2),
    "depthwise 3x3, dilated": depthwise(16, kernel=3, dilation=2),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of the layers that were folded; small maps too, and on any processor."""
    if not has_fused_convolutions(torch.float32):
        pytest.skip("this torch is without oneDNN")
    widths: list[int] = []
    convolve = module.convolve

    def counted(inputs: Tensor, weight: Tensor, *given: object, **more: object) -> Tensor:
        widths.append(len(weight))
        return convolve(inputs, weight, *given, **more)

    monkeypatch.setattr(module, "convolve", counted)
    monkeypatch.setattr(module, "_LEAST", 1)
    monkeypatch.setattr(module, "processor_kind", lambda: "AVX2")
    return widths


def layer_of(layer: Layer, act: str = "relu6", padding: str = "symmetric") -> ConvNormAct:
    made = ConvNormAct(layer, act, norm=NORM, padding=padding).to(memory_format=torch.channels_last).eval()
    if isinstance(made.norm, nn.BatchNorm2d):
        for tensor in (made.norm.weight.data, made.norm.running_var):
            tensor.uniform_(0.5, 2.0)
        for tensor in (made.norm.bias.data, made.norm.running_mean):
            tensor.normal_()
    return made


def images_of(channels: int, side: int = 11, count: int = 4) -> Tensor:
    return torch.randn(count, channels, side, side).contiguous(memory_format=torch.channels_last)


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("act", ["none", "relu", "relu6", "hard_swish"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_answers_as_the_stock_layers_in_float64(name: str, act: str, padding: str, calls: list[int]) -> None:
    layer = layer_of(LAYERS[name], act, padding)
    images = images_of(LAYERS[name].in_channels)
    with torch.no_grad():
        wanted = copy.deepcopy(layer).double()(images.double())
        assert not calls
        assert off(layer(images), wanted) < 1e-6
        assert calls == [LAYERS[name].out_channels]
        if has_fused_convolutions(torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16):
                found = layer(images)
            assert found.dtype == torch.bfloat16
            assert off(found, wanted) < 0.01


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_small"])
def test_whole_networks_answer_alike(name: str, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(compose(name, alpha=0.5, resolution=64, classes=10)).to(memory_format=torch.channels_last)
    images = images_of(3, side=64)
    with torch.no_grad():
        for _ in range(30):
            network(images)  # statistics that are those of these images, so that numbers stay large
        found = network.eval()(images)
        assert len(calls) > 20
        monkeypatch.setattr(module, "_LEAST", 2**40)
        assert off(found, network(images)) < 1e-5


def test_frozen_rows_answer_so_and_the_others_learn_as_before(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(compose("mobilenet_v2", alpha=0.35, resolution=64, classes=10)).to(
        memory_format=torch.channels_last
    )
    images = images_of(3, side=64)
    frozen = sum(isinstance(part, ConvNormAct) for row in list(network.rows)[:4] for part in row.modules())
    freeze_rows(network, 4)
    train_unfrozen(network, 4)
    gradients = []
    for least in (1, 2**40):
        monkeypatch.setattr(module, "_LEAST", least)
        network.zero_grad()
        torch.manual_seed(0)  # of dropout
        network(images).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert len(calls) == frozen
    assert off(*gradients) < 1e-4


@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_where_more_is_wanted_than_an_answer_the_stock_layers_run(act: str, calls: list[int]) -> None:
    wanted = LAYERS["1x1"]

    def run(change: Callable[[ConvNormAct], object], images: Tensor, around: object = None) -> int:
        calls.clear()
        layer = layer_of(wanted, act)
        change(layer)
        with around or torch.no_grad():  # type: ignore[attr-defined]
            layer(images)
        return len(calls)

    def nothing(layer: ConvNormAct) -> None:
        pass

    def frozen(layer: ConvNormAct) -> None:
        layer.requires_grad_(requires_grad=False)

    def hear(part: str) -> Callable[[ConvNormAct], object]:
        return lambda layer: getattr(layer, part).register_forward_hook(lambda *_: None)

    images = images_of(24)
    folds = int(act == "relu")  # oneDNN has no name for the other
    assert run(nothing, images) == folds
    assert run(frozen, images, nullcontext()) == folds
    assert run(nothing, images, nullcontext()) == 0  # gradients of the weights are wanted
    assert run(frozen, images.clone().requires_grad_(), nullcontext()) == 0  # those of the images
    assert run(lambda layer: layer.train(), images) == 0
    assert run(lambda layer: layer.double(), images.double()) == 0
    assert run(nothing, images.contiguous()) == 0
    assert run(lambda layer: layer.conv.register_forward_pre_hook(lambda *_: None), images) == 0
    assert [run(hear(part), images) for part in ("conv", "norm", "act")] == [0, 0, 0]


def test_a_single_image_without_a_batch_is_answered_by_the_stock_layers(calls: list[int]) -> None:
    with torch.no_grad():
        layer = layer_of(LAYERS["1x1, bias, no norm"])  # a batch norm wants a batch
        assert layer(images_of(8)[0]).shape == (12, 11, 11)
    assert not calls


def test_small_maps_and_other_processors_are_left_alone(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, images = layer_of(LAYERS["1x1"]), images_of(24)
    with torch.no_grad():
        monkeypatch.setattr(module, "_LEAST", images.numel() + 1)
        layer(images)
        monkeypatch.setattr(module, "_LEAST", images.numel())
        monkeypatch.setattr(module, "processor_kind", lambda: "other")
        layer(images)
        assert not calls
        monkeypatch.setattr(module, "processor_kind", lambda: "AMX")
        layer(images)
        assert calls


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning", "ignore:.*jit:FutureWarning")
def test_a_captured_graph_has_the_layers_of_the_table(calls: list[int]) -> None:
    layer, images = layer_of(LAYERS["1x1"]), images_of(24)
    with torch.no_grad():
        exported = torch.export.export(layer, (images,))
        assert not calls
        traced = torch.jit.trace(layer, images)  # which also calls the layer, to compare
    assert "mkldnn" not in f"{exported.graph}{traced.graph}"
