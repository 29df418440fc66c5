"""Another library's networks as witnesses: the same counts for every shared one, and the same answers."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from mobilenets.arch import ArchSpec, cost, find, with_width
from mobilenets.arch.spec import Norm
from mobilenets.nets import Network, build, features

pytestmark = pytest.mark.parity

TIMM = [
    "mobilenetv1_100",
    "mobilenetv1_125",
    *(f"mobilenetv2_{width}" for width in ("035", "050", "075", "100", "140", "110d", "120d")),
    *(f"mobilenetv3_{rest}" for rest in ("large_075", "large_100", "small_050", "small_075", "small_100")),
    *(f"tf_mobilenetv3_{size}_{rest}" for size in ("large", "small") for rest in ("075", "100", "minimal_100")),
    *(f"mobilenetv4_conv_{rest}" for rest in ("small_035", "small_050", "small", "medium", "large")),
    *(f"mobilenetv4_hybrid_{rest}" for rest in ("medium", "medium_075", "large", "large_075")),
]
TORCHVISION = [
    *(("mobilenet_v2", width, False) for width in (0.35, 0.5, 0.75, 1.0, 1.4)),
    *((f"mobilenet_v3_{size}", width, False) for size in ("large", "small") for width in (0.5, 0.75, 1.0)),
    *((f"mobilenet_v3_{size}", width, True) for size in ("large", "small") for width in (0.75, 1.0)),
]
# Every kind of row, head, width rule, padding and activation once; the others differ from these in numbers only.
TIMM_ANSWERS = [
    "mobilenetv1_100",
    "mobilenetv2_050",
    "mobilenetv2_140",
    "mobilenetv2_110d",
    "mobilenetv3_large_075",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_large_100",
    "tf_mobilenetv3_small_100",
    "tf_mobilenetv3_large_minimal_100",
    "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_050",
    "mobilenetv4_conv_medium",
    "mobilenetv4_hybrid_medium",
    "mobilenetv4_hybrid_medium_075",
    "mobilenetv4_hybrid_large",
]


def _settle(network: nn.Module) -> None:
    """Make it behave like a trained one: every layer passes on what tells images apart, no norm is trivial."""
    generator = torch.Generator().manual_seed(7)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for part in network.modules():
            if part in norms:
                part.momentum = 1.0
                part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                part.bias.copy_(uniform(part.bias, -0.3, 0.3))
            elif type(part).__name__.startswith("LayerScale"):
                part.gamma.copy_(uniform(part.gamma, 0.5, 1.5))
            elif isinstance(part, nn.Linear):
                part.weight.copy_(uniform(part.weight, -1, 1) / part.in_features**0.5)
        network.train()(torch.randn(4, 3, 97, 128, generator=generator))
        for norm in norms:
            norm.running_mean.add_(uniform(norm.running_mean, -0.1, 0.1))
            norm.running_var.mul_(uniform(norm.running_var, 0.8, 1.25))
    network.eval()


def _copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """The tables run in the same order everywhere, so tensors pair up one by one; a shape that differs raises."""
    theirs = [t for name, t in source.state_dict().items() if "num_batches" not in name]
    ours = [t for name, t in target.state_dict().items() if "num_batches" not in name]
    assert len(theirs) == len(ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.numel() == other.numel()
        mine.copy_(other.reshape(mine.shape))


def _timm(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")
    network: nn.Module = timm.create_model(name, pretrained=False, **options)
    return network


def _torchvision(name: str, width: float, reduced_tail: bool) -> nn.Module:
    models = pytest.importorskip("torchvision.models", reason="torchvision is in the extra [train]")
    options = {"reduced_tail": True} if reduced_tail else {}
    network: nn.Module = getattr(models, name)(weights=None, width_mult=width, **options)
    return network


def _like_torchvision(name: str, width: float, reduced_tail: bool) -> ArchSpec:
    spec = find(f"{name}_reduced_tail" if reduced_tail else name)
    return with_width(spec, width, rule="torchvision" if "v3" in name else "paper")


def _counts_agree(make: Callable[[], nn.Module], spec: ArchSpec) -> None:
    with torch.device("meta"):
        witness, network = make(), Network(spec)
    counted = sum(p.numel() for p in witness.parameters())
    assert cost(spec).parameters == counted == sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for name, b in witness.named_buffers() if "running" in name)
    assert cost(spec).norm_statistics == statistics


def _answers_agree(witness: nn.Module, spec: ArchSpec) -> None:
    _settle(witness)
    eps = next(part.eps for part in witness.modules() if isinstance(part, nn.BatchNorm2d))
    network = build(msgspec.structs.replace(spec, norm=Norm(eps=eps, momentum=0.1))).eval()
    with torch.no_grad():
        _copy_by_order(witness, network)
        images = torch.randn(2, 3, 97, 128)
        theirs = witness(images)
        assert 0.02 < float((theirs[0] - theirs[1]).std()) < 10  # else agreement says little
        torch.testing.assert_close(network(images), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TIMM)
def test_parameters_and_statistics_are_as_many_as_timms(name: str) -> None:
    _counts_agree(lambda: _timm(name), find(name))


@pytest.mark.parametrize(("name", "width", "reduced_tail"), TORCHVISION)
def test_parameters_and_statistics_are_as_many_as_torchvisions(name: str, width: float, reduced_tail: bool) -> None:
    spec = _like_torchvision(name, width, reduced_tail)
    _counts_agree(lambda: _torchvision(name, width, reduced_tail), spec)


@pytest.mark.parametrize("name", TIMM_ANSWERS)
def test_logits_agree_with_timm(name: str) -> None:
    torch.manual_seed(3)
    _answers_agree(_timm(name), find(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TIMM) - set(TIMM_ANSWERS)))
def test_logits_of_every_other_network_agree_with_timm(name: str) -> None:
    torch.manual_seed(3)
    _answers_agree(_timm(name), find(name))


@pytest.mark.parametrize(("name", "width", "reduced_tail"), TORCHVISION)
def test_logits_agree_with_torchvision(name: str, width: float, reduced_tail: bool) -> None:
    torch.manual_seed(3)
    _answers_agree(_torchvision(name, width, reduced_tail), _like_torchvision(name, width, reduced_tail))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("theirs", "ours", "final_conv"),
    [
        ("mobilenetv2_050", "mobilenet_v2_0.5_224", False),
        ("mobilenetv3_small_100", "mobilenet_v3_small", True),
        ("mobilenetv4_conv_small", "mobilenet_v4_conv_small", True),
        ("mobilenetv4_hybrid_medium", "mobilenet_v4_hybrid_medium", True),
    ],
)
def test_maps_of_a_held_stride_agree_with_timm(theirs: str, ours: str, final_conv: bool, output_stride: int) -> None:
    torch.manual_seed(3)
    witness = _timm(theirs, features_only=True, output_stride=output_stride)
    _settle(witness)
    spec = msgspec.structs.replace(find(ours), norm=Norm(eps=1e-5, momentum=0.1))
    network = features(spec, strides=(4, output_stride), output_stride=output_stride, final_conv=final_conv).eval()
    with torch.no_grad():
        _copy_by_order(witness, network)
        images = torch.randn(2, 3, 97, 128, dtype=torch.float64)
        # In float64, for the maps of a deep network with random norms grow beyond what float32 has four places for.
        theirs_said, (low, high) = witness.double()(images), network.double()(images).values()
        assert high.std() > 0.1
        torch.testing.assert_close(low, theirs_said[1], rtol=0, atol=1e-6)
        torch.testing.assert_close(high, theirs_said[-1], rtol=0, atol=1e-6)
