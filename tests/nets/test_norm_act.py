import copy

import pytest
import torch
from torch import Tensor, nn

from mobilenets.nets import norm_act as module
from mobilenets.nets.norm_act import norm_act
from mobilenets.nets.onednn import has_fused_convolutions

ACTS = [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardswish()]
NAMES = ["none", "relu", "relu6", "hard_swish"]


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_fused_convolutions(torch.bfloat16):
        pytest.skip("this torch is without oneDNN, or this processor without bfloat16")
    monkeypatch.setattr(module, "_LEAST", 1)
    monkeypatch.setattr(module, "processor_kind", lambda: "AVX-512")


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    return norm


def images_of(channels: int) -> Tensor:
    spread = torch.rand(channels).view(1, -1, 1, 1) + 0.5
    values = torch.randn(16, channels, 12, 12) * spread + torch.randn(channels).view(1, -1, 1, 1)
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def learned(function, images: Tensor, norm: nn.BatchNorm2d, act: nn.Module, gradient: Tensor) -> list[Tensor]:
    """Output, the three gradients and the running statistics."""
    norm = copy.deepcopy(norm).to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    leaf = images.clone().requires_grad_()
    outputs = function(leaf, norm, act)
    outputs.backward(gradient.to(outputs.dtype))
    assert norm.num_batches_tracked == 1
    return [outputs.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def stock(images: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    return act(norm(images))


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("channels", [8, 24, 72])
@pytest.mark.parametrize("act", ACTS, ids=NAMES)
def test_outputs_gradients_and_statistics_are_those_of_float64_to_the_digits_of_bfloat16(act, channels) -> None:
    torch.manual_seed(channels)
    images, norm = images_of(channels), norm_of(channels)
    gradient = torch.randn_like(images)
    exact = learned(stock, images.double(), norm, act, gradient)
    ours = learned(norm_act, images, norm, act, gradient)
    bounds = (0.01, 0.05, 0.05, 0.05, 1e-5, 1e-5)
    for name, found, wanted, bound in zip(
        ("outputs", "inputs", "weight", "bias", "mean", "var"), ours, exact, bounds, strict=True
    ):
        assert off(found, wanted) < bound, name


@pytest.mark.parametrize("act", ACTS, ids=NAMES)
def test_the_gradient_of_each_channel_sums_to_nothing_as_a_norm_has_it(act) -> None:
    torch.manual_seed(0)
    images, norm = images_of(16), norm_of(16)
    gradient = learned(norm_act, images, norm, act, torch.randn_like(images))[1].float()
    assert float((gradient.mean((0, 2, 3)).abs() / gradient.abs().mean((0, 2, 3))).max()) < 0.01


def fused(outputs: Tensor) -> bool:
    return "_NormAct" in str(outputs.grad_fn)


def test_training_in_bfloat16_takes_the_fast_way_and_keeps_the_layout() -> None:
    outputs = norm_act(images_of(16).requires_grad_(), norm_of(16), nn.ReLU6())
    assert fused(outputs)
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_everything_else_is_stock() -> None:
    images, norm, act = images_of(16).requires_grad_(), norm_of(16), nn.ReLU6()
    heard = norm_of(16)
    heard.register_forward_hook(lambda *_: None)
    frozen = norm_of(16).eval()
    odd = images[:, :12].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for given, by, name in (
        (images.detach().float().requires_grad_(), norm, "float32"),
        (images.detach().contiguous().requires_grad_(), norm, "planes"),
        (images, heard, "a hook"),
        (images, frozen, "evaluation"),
        (odd, norm_of(12), "12 channels"),
        (images, nn.Identity(), "no norm"),
    ):
        outputs = norm_act(given, by, act)
        assert not fused(outputs), name
        assert torch.equal(outputs, act(by(given))), name
    assert not fused(norm_act(images, norm, nn.GELU()))
    with torch.no_grad():
        assert not fused(norm_act(images, norm, act))


def test_small_tensors_are_left_to_the_stock_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(16).requires_grad_()
    monkeypatch.setattr(module, "_LEAST", images.numel() + 1)
    assert not fused(norm_act(images, norm_of(16), nn.ReLU()))


def test_with_amx_only_what_gains_there_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processor_kind", lambda: "AMX")
    images, norm = images_of(16).requires_grad_(), norm_of(16)
    assert [fused(norm_act(images, norm, act)) for act in ACTS] == [False, True, True, False]
