"""Convolution, norm and activation in one call, where a network only answers: no gradients are wanted, on the CPU.

A norm with the statistics that it has is a factor and an offset per channel. The factor goes into the convolution's
weights (Jacob et al. 2018, section 3.2), the offset is its bias, and oneDNN applies the activation before it writes a
number, so each map is written once and not three times. Validation, teachers and frozen rows answer so. Weights are
folded anew in each call: beside a batch of maps that costs nothing, and whoever changes a weight need not tell.

Where the operator is not there, on other processors, for small maps, while a graph is captured, and where somebody
listens to one of the layers, the stock layers run. The answers differ by rounding.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d
from .eager import Pair, autocast_or, is_heard, processor_kind, runs_on_cpu
from .full import FullConv2d
from .onednn import convolve, fused_act, has_fused_convolutions

__all__ = ["folded"]

_LEAST: Final = 2**18  # numbers: of smaller maps, folding costs as much as it saves (`benchmarks/train_step.py`)


def folded(inputs: Tensor, conv: nn.Module, norm: nn.Module, act: nn.Module) -> Tensor | None:
    """`act(norm(conv(inputs)))`, (N, in, H, W) to (N, out, H', W'); None where the stock layers are to run."""
    if not _may_fold(inputs, conv, norm, act):
        return None
    assert isinstance(conv, DepthwiseConv2d | FullConv2d)
    dtype = autocast_or(inputs.dtype)
    fused = fused_act(act)
    # The processor is asked last: what is being captured by torch.compile cannot follow that call.
    if fused is None or processor_kind() == "other" or not has_fused_convolutions(dtype):
        return None
    weight, bias = conv.weight, conv.bias
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = weight * factor.view(-1, 1, 1, 1)
        mean = norm.running_mean if bias is None else norm.running_mean - bias
        bias = torch.addcmul(norm.bias, mean, factor, value=-1)
    return convolve(
        inputs.to(dtype),
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        stride=cast(Pair, conv.stride),
        padding=cast(Pair, conv.padding),
        dilation=cast(Pair, conv.dilation),
        groups=conv.groups,
        act=fused,
    )


def _may_fold(inputs: Tensor, conv: nn.Module, norm: nn.Module, act: nn.Module) -> bool:
    """Whether plain float32 layers, which nobody listens to, answer with fixed statistics to large maps on a CPU."""
    if norm.training or not runs_on_cpu(inputs) or type(inputs) is not Tensor:
        return False
    # While a pass is traced, its sizes are no plain numbers.
    if torch.jit.is_tracing() or inputs.numel() < _LEAST:  # type: ignore[attr-defined,no-untyped-call]
        return False
    if type(conv) not in (DepthwiseConv2d, FullConv2d) or type(norm) not in (nn.BatchNorm2d, nn.Identity):
        return False
    if isinstance(norm, nn.BatchNorm2d) and not (norm.track_running_stats and norm.affine):
        return False
    numbers = [*conv.parameters(), *norm.parameters()]
    if torch.is_grad_enabled() and (inputs.requires_grad or any(one.requires_grad for one in numbers)):
        return False
    return all(one.dtype == torch.float32 for one in numbers) and not is_heard(conv, norm, act)
