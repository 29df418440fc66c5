"""What changes weights: the optimizer, and the average of the weights that is kept beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..arch import AttentionRow, BottleneckRow, FusedRow, UniversalRow
from ..errors import UsageError
from ..nets import DepthwiseConv2d, Network
from ..nets.parts import SqueezeExcite
from .muon import Muon
from .recipe import Recipe
from .transfer import depth_of

__all__ = ["EMA_EVERY", "apply_recipe", "average", "follow", "make_optimizer"]

EMA_EVERY = 4  # steps; averaging each step costs time and changes nothing that can be measured


def apply_recipe(network: Network, recipe: Recipe, *, per_epoch: int = 1) -> None:
    """Set norm momentum, dropout and stochastic depth as the recipe says, in place.

    Args:
        network: fresh from `build`.
        recipe: how.
        per_epoch: steps of an epoch, for a norm momentum that is tied to them.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = recipe.norm_momentum_for(per_epoch)
        elif isinstance(module, nn.Dropout) and recipe.dropout is not None:
            module.p = recipe.dropout
    if recipe.drop_path:
        _drop_paths(network, recipe.drop_path)


def make_optimizer(
    network: Network, recipe: Recipe, *, beside: Iterable[nn.Module] = (), dtype: torch.dtype = torch.float32
) -> Optimizer:
    """Weight decay on full convolutions and linear layers; none on norms, biases, depthwise filters (V1, section 3.2).

    Each group has a `scale`, the factor on its rate: 1, but where rates fall towards the stem, and for the matrices of
    Muon. Those are the convolutions of rows that mix channels, without squeeze-and-excite's, which see one pixel each.
    Parameters without gradients are in no group. A network among `beside` is a part of the result that learns in some
    steps only (`Objective.modules`): it has groups of its own.

    Args:
        network: what is trained.
        recipe: how.
        beside: modules that an objective learns with it.
        dtype: of the forward and backward pass, in which Muon computes as well.

    Raises:
        UsageError: the optimizer is unknown.
    """
    learned = nn.ModuleList([network, *beside])
    networks = [module for module in learned if isinstance(module, Network)]
    # Whose momentum begins later than that of a group's others has a group of its own: torch's fused steps need it.
    part_of = {parameter: place for place, part in enumerate(networks[1:]) for parameter in part.parameters()}
    decayed = {m.weight for m in learned.modules() if isinstance(m, nn.Conv2d | nn.Linear) and not _depthwise(m)}
    depths = depth_of(network) if recipe.layer_decay < 1 else {}
    matrices: set[Tensor] = set().union(*map(_matrices, networks)) if recipe.optimizer == "muon" else set()
    parts: dict[tuple[float, bool, bool, int | None], list[nn.Parameter]] = {
        (1.0, heavy, False, None): [] for heavy in (True, False)
    }
    for parameter in learned.parameters():
        if parameter.requires_grad:
            scale = recipe.layer_decay ** depths.get(parameter, 0)
            kind = (scale, parameter in decayed, parameter in matrices, part_of.get(parameter))
            parts.setdefault(kind, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (scale, heavy, matrix, _), parameters in parts.items():
        if matrix:
            how = {"scale": scale * recipe.matrix_scale, "orthogonal": True, "shrink": recipe.matrix_decay}
        else:
            how = {"scale": scale, "weight_decay": recipe.weight_decay if heavy else 0.0}
        groups.append({"params": parameters, **how})
    if recipe.optimizer == "muon":
        # float16 is too narrow for the polynomials of large matrices.
        return Muon(
            groups, lr=recipe.lr, momentum=recipe.momentum, dtype=torch.float32 if dtype == torch.float16 else dtype
        )
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    if recipe.optimizer == "adamw":
        squares = 0.999 if recipe.square_decay is None else recipe.square_decay
        eps = 1e-8 if recipe.eps is None else recipe.eps
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, squares), eps=eps, fused=True)
    if recipe.optimizer == "rmsprop":
        # TensorFlow adds epsilon inside the root: a published one is put down here as its root. With it, both bound
        # the step alike where gradients vanish, which is what epsilon is for.
        squares = 0.9 if recipe.square_decay is None else recipe.square_decay
        eps = 0.0316 if recipe.eps is None else recipe.eps
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=squares, eps=eps, momentum=recipe.momentum)
    raise UsageError(f"optimizer {recipe.optimizer!r}", wanted="sgd, muon, adamw or rmsprop", do="use one")


def follow(averaged: nn.Module, current: nn.Module, recipe: Recipe, *, step: int) -> None:
    """Let the averaged weights follow, if it is time; see `Recipe.averaged_steps`."""
    if step % EMA_EVERY == 0:
        average(averaged, current, weight=EMA_EVERY / (EMA_EVERY + recipe.averaged_steps(step)))


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, *, weight: float) -> None:
    """averaged += weight * (current - averaged), running statistics included."""
    for old, new in zip(averaged.state_dict().values(), current.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight)
        else:
            old.copy_(new)


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, DepthwiseConv2d) or (isinstance(module, nn.Conv2d) and module.groups > 1)


def _matrices(network: Network) -> set[Tensor]:
    """The kernels of all convolutions of rows over whole maps and all channels."""
    gates = {part for module in network.modules() if isinstance(module, SqueezeExcite) for part in module.modules()}
    full = [m for m in network.rows.modules() if isinstance(m, nn.Conv2d) and not _depthwise(m) and m not in gates]
    return {module.weight for module in full}


def _drop_paths(network: Network, last: float) -> None:
    """Stochastic depth (Huang et al. 2016): leave the branch of residual rows out for some images, later rows oftener.

    A branch that is kept is scaled so that its mean stays. Hooks do it, for the network itself is as it is deployed.
    """
    for placed, module in zip(network.spec.placed(), network.rows, strict=True):
        row = placed.row
        if isinstance(row, AttentionRow | BottleneckRow | FusedRow | UniversalRow) and row.residual(placed.in_channels):
            module.register_forward_hook(_DropPath(last * (placed.index + 1) / len(network.rows)))


class _DropPath:
    """A forward hook for a row that adds its input to its output."""

    def __init__(self, rate: float) -> None:
        self._keep = 1 - rate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        (before,) = inputs
        kept = torch.empty(len(before), 1, 1, 1, dtype=output.dtype, device=output.device).bernoulli_(self._keep)
        return before + (output - before) * (kept / self._keep)
