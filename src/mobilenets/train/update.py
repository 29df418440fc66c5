"""What changes weights: the optimizer, and the average of the weights that is kept beside them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..nets import DepthwiseConv2d, Network
from .recipe import Recipe

__all__ = ["apply_recipe", "average", "make_optimizer"]


def apply_recipe(network: Network, recipe: Recipe) -> None:
    """Set norm momentum and dropout as the recipe says, in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = recipe.norm_momentum
        elif isinstance(module, nn.Dropout) and recipe.dropout is not None:
            module.p = recipe.dropout


def make_optimizer(network: Network, recipe: Recipe, *, beside: Iterable[nn.Module] = ()) -> Optimizer:
    """Weight decay on full convolutions and linear layers; none on norms, biases, depthwise filters (V1, section 3.2).

    Args:
        network: what is trained.
        recipe: how.
        beside: modules that an objective learns with it.

    Raises:
        UsageError: the optimizer is unknown.
    """
    learned = nn.ModuleList([network, *beside])
    decayed = [m.weight for m in learned.modules() if isinstance(m, nn.Conv2d | nn.Linear) and not _depthwise(m)]
    chosen = {id(p) for p in decayed}
    spared = [p for p in learned.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)
    if recipe.optimizer == "rmsprop":
        # V3 section 6.1; eps as torchvision's recipe for V3
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=0.9, eps=0.0316, momentum=recipe.momentum)
    raise UsageError(f"optimizer {recipe.optimizer!r}", wanted="sgd, adamw or rmsprop", do="use one")


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, DepthwiseConv2d) or (isinstance(module, nn.Conv2d) and module.groups > 1)


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, *, weight: float) -> None:
    """averaged += weight * (current - averaged), running statistics included."""
    for old, new in zip(averaged.state_dict().values(), current.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight)
        else:
            old.copy_(new)
