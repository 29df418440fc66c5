"""Claims about the pointwise convolution with its own weight gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mobilenets.arch import compose
from mobilenets.nets import PointwiseConv2d, build, pointwise

SHAPES = [(96, 64, 8, 8), (64, 128, 7, 5), (512, 16, 4, 4), (80, 320, 1, 1)]


@pytest.fixture(autouse=True)
def _on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointwise, "_product_is_faster", lambda: True)


def images_of(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(6, channels, height, width, generator=generator)
    return images.contiguous(memory_format=torch.channels_last).requires_grad_()


def own(outputs: Tensor) -> bool:
    return "_PointwiseConv2d" in str(outputs.grad_fn)


@pytest.mark.parametrize(("before", "after", "height", "width"), SHAPES)
def test_gradients_match_float64(before: int, after: int, height: int, width: int) -> None:
    layer, images = PointwiseConv2d(before, after), images_of(before, height, width)
    outputs = layer(images)
    assert own(outputs)
    signal = torch.randn_like(outputs)
    found = torch.autograd.grad(outputs, (images, layer.weight), signal)
    weight, exact = layer.weight.detach().double().requires_grad_(), images.detach().double().requires_grad_()
    wanted = torch.autograd.grad(torch.einsum("nchw,dc->ndhw", exact, weight[:, :, 0, 0]), (exact, weight), signal)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert float((mine.double() - theirs).norm() / theirs.norm()) < 1e-6


def test_a_gradient_in_another_layout_is_taken_too() -> None:
    layer, images = PointwiseConv2d(64, 64), images_of(64, 6, 6)
    signal = torch.randn(6, 64, 6, 6)
    layer(images).backward(signal)
    nn.functional.conv2d(images.detach(), again := layer.weight.detach().clone().requires_grad_()).backward(signal)
    torch.testing.assert_close(layer.weight.grad, again.grad, rtol=1e-5, atol=1e-4)


def test_the_forward_pass_has_the_bits_of_the_stock_convolution_and_frozen_weights_are_its_own() -> None:
    layer, images = PointwiseConv2d(64, 96), images_of(64, 8, 8)
    assert torch.equal(layer(images), nn.functional.conv2d(images, layer.weight))
    assert own(layer(images.detach()))  # the first layer of what is learned
    layer.weight.requires_grad_(False)
    assert not own(layer(images))


def test_everything_else_is_stock() -> None:
    images = images_of(64, 8, 8)
    layer = PointwiseConv2d(64, 96)
    assert not own(layer(images.detach().contiguous().requires_grad_()))  # planes
    assert not own(PointwiseConv2d(64, 96, bias=True)(images))
    assert not own(PointwiseConv2d(64, 16)(images))  # thin
    assert not own(PointwiseConv2d(64, 96).double()(images.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not own(layer(images))
    with torch.no_grad():
        assert not own(layer(images))


def test_processors_it_was_not_measured_on_keep_the_stock_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pointwise._product_is_faster.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not own(PointwiseConv2d(64, 96)(images_of(64, 8, 8)))
    pointwise._product_is_faster.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert own(PointwiseConv2d(64, 96)(images_of(64, 8, 8)))
    pointwise._product_is_faster.cache_clear()


def test_a_slice_of_a_wide_weight_gets_its_gradient() -> None:
    layer, images = PointwiseConv2d(96, 128), images_of(64, 8, 8)
    outputs = functional_call(layer, {"weight": layer.weight[:80, :64]}, (images,))
    assert own(outputs)
    outputs.sum().backward()
    assert layer.weight.grad is not None
    wanted = images.detach().sum((0, 2, 3)).expand(80, 64)
    torch.testing.assert_close(layer.weight.grad[:80, :64, 0, 0], wanted, rtol=1e-4, atol=1e-4)
    assert not layer.weight.grad[80:].any()
    assert not layer.weight.grad[:, 64:].any()


def test_state_dict_and_initial_values_are_those_of_a_convolution() -> None:
    torch.manual_seed(3)
    layer = PointwiseConv2d(6, 5, bias=True)
    torch.manual_seed(3)
    stock = nn.Conv2d(6, 5, 1)
    assert list(layer.state_dict()) == list(stock.state_dict())
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in stock.state_dict().items())


def test_captured_graph_holds_one_ordinary_convolution() -> None:
    layer, example = PointwiseConv2d(64, 64), images_of(64, 8, 8).detach()
    captured = torch.export.export(layer, (example,))
    calls = [node.target for node in captured.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.aten.conv2d.default]


def test_a_network_s_wide_pointwise_layers_take_it() -> None:
    network = build(compose("mobilenet_v1", alpha=0.5, resolution=32, classes=3)).train()
    seen: list[bool] = []
    for module in network.modules():
        if isinstance(module, PointwiseConv2d):
            module.register_forward_hook(lambda _, inputs, outputs: seen.append(own(outputs)))
    network.to(memory_format=torch.channels_last)(images_of(3, 32, 32)).sum().backward()
    assert len(seen) == 13
    assert sum(seen) >= 10
