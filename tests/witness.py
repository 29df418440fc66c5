"""Networks of other libraries with weights that matter, and how far their answers are from ours."""

from __future__ import annotations

import torch
from torch import nn

from mobilenets.bundle import Bundle
from mobilenets.nets import Network, load_tensors

__all__ = ["apart", "disturbed"]


def disturbed(network: nn.Module, *, gain: float = 1.8, seed: int = 7) -> nn.Module:
    """The same network, ready to answer, with norms' statistics that matter, and weights that keep a signal.

    As the libraries draw them, weights let it vanish over the depth, and every image gets the same logits. With too
    large a `gain` (variance of a weight times its inputs), an attention sees one pixel alone, and rounding decides
    which.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                spread = (gain / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * spread)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):  # a layer scale begins near 0, where what it scales would not matter
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.4 + 0.1)
    return network.eval()


def apart(network: nn.Module, bundle: Bundle, *, height: int = 97, width: int = 128) -> float:
    """The largest difference of logits between their network and ours, as a part of how much they vary by image.

    The odd side and the even one are padded differently by SAME.
    """
    ours = Network(bundle.spec).eval()
    load_tensors(ours, bundle.tensors)
    pixels = torch.randn(4, bundle.spec.channels, height, width, generator=torch.Generator().manual_seed(1))
    pixels *= torch.tensor([0.5, 1.0, 2.0, 4.0]).view(4, 1, 1, 1)  # noise alone looks the same to a mean over the map
    with torch.inference_mode():
        said = network(pixels)
        logits = said if isinstance(said, torch.Tensor) else said.logits
        answer = ours(pixels)
    assert torch.isfinite(logits).all()
    varies = float((logits - logits.mean(dim=0)).std())
    assert varies > 0.01, "a witness that says the same of every image proves nothing"
    return float((answer - logits).abs().max()) / varies
