"""Norms that came folded into their convolutions -> norms with statistics, so that fine-tuning can begin.

A file with folded norms (Jacob et al. 2018, section 3.2) holds no statistics: after importing, every norm has mean 0
and variance 1 - eps. In evaluation that is the network of the file. In training a norm divides by what the batch has,
and the same weights would be another function, far away from the trained one. Real images tell the statistics that the
norms would have, and weight and shift are chosen so that evaluation stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import UsageError

__all__ = ["settle_norms"]


class _Statistics:
    """Sums over everything that a norm was given, per channel, in float64."""

    def __init__(self, channels: int) -> None:
        # On the CPU, for not every device has float64.
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, inputs: Tensor) -> None:
        """inputs (N, C, H, W) or (N, C)."""
        over = [0, *range(2, inputs.ndim)]
        # Sums of a batch in float32 around its own mean, for the square of a large mean would drown the variance.
        mean = inputs.float().mean(over, keepdim=True)
        spread = (inputs.float() - mean).square().mean(over).cpu().double()
        shift = mean.flatten().cpu().double()
        count = inputs.numel() // inputs.shape[1]
        self.count += count
        self.total += count * shift
        self.squares += count * (spread + shift.square())

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Both float64 (C,); the variance is never negative."""
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp_min(0.0)


@torch.no_grad()
def settle_norms(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give every batch norm of a network the statistics of real images; what it answers in evaluation stays.

    Each norm is y = a z + b per channel in evaluation. It gets the mean m and the variance v of its inputs z over the
    images, weight a sqrt(v + eps) and shift b + a m, which is the same y; and in training, for batches like those
    images, nearly the same. A channel that never moves (v = 0) keeps its answer too.

    The module is changed, as training changes it; its mode (training or evaluation) is as before.

    Args:
        network: any module with batch norms.
        batches: normalised images (N, C, H, W). Some hundred images are enough; one batch is held at a time.

    Returns:
        How many images it saw.

    Raises:
        UsageError: no image, or a norm that keeps no statistics or has no weight.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        if norm.running_mean is None or norm.running_var is None or not norm.affine:
            raise UsageError(
                "a norm without running statistics or weight",
                wanted="norms as a table's network has them",
                do="build the network from its table",
            )
    seen = {id(norm): _Statistics(norm.num_features) for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda module, inputs: seen[id(module)].add(inputs[0])) for norm in norms]
    was_training = [module for module in network.modules() if module.training]
    network.eval()
    images = 0
    try:
        for batch in batches:
            network(batch)
            images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    if not images:
        raise UsageError("no image to settle the norms on", wanted="some hundred images", do="give training images")
    for norm in norms:
        if seen[id(norm)].count:  # one that no image reached stays as it is
            _settle(norm, *seen[id(norm)].mean_and_variance())
    return images


def _settle(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # What evaluation will compute with is the float32 that is stored, so that is what weight and shift are made for.
    norm_mean, norm_var = mean.to(norm.running_mean.dtype).double(), variance.to(norm.running_var.dtype).double()
    slope = norm.weight.cpu().double() / torch.sqrt(norm.running_var.cpu().double() + norm.eps)
    shift = norm.bias.cpu().double() - slope * norm.running_mean.cpu().double()
    norm.weight.copy_(slope * torch.sqrt(norm_var + norm.eps))
    norm.bias.copy_(shift + slope * norm_mean)
    norm.running_mean.copy_(norm_mean)
    norm.running_var.copy_(norm_var)
