"""Batch norm and activation in one, for training in bfloat16 on the CPU.

There the stock layers take about a third of a step: each reads and writes every number anew, and converts it to
float32 and back. With the statistics known, a norm is a factor and an offset per channel, which is a depthwise 1x1
convolution: oneDNN runs that in half of the time, with the activation in the same pass. So it is in the backward pass,
where the gradient of the inputs is such a convolution of the gradient plus one of the inputs, and the stock kernel is
fast as long as it is asked for the sums alone.

The convolutions with an activation or an addition in them are those that `torch.compile` calls (`torch.ops.mkldnn`).
Where they are not there, where the processor has no instructions for bfloat16 (they refuse then), where a tensor is
small, and everywhere but in training in bfloat16 on the CPU, the stock layers run. Factors and offsets are rounded to
bfloat16, as all weights are; statistics and sums are those of the stock norm.

An activation may hide NaN here, so whoever trains has to look at the weights and not only at the loss (`train.loop`
does).
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .eager import ProcessorKind, is_heard, processor_kind, trains_on_cpu
from .onednn import FusedAct, add_per_channel, fused_act, has_fused_convolutions, per_channel

__all__ = ["norm_act"]

# What the stock layers do as fast or faster, by processor (docs/decisions.md).
_STOCK_IS_FASTER: Final[dict[ProcessorKind, tuple[FusedAct, ...]]] = {"AMX": ("none", "hardswish")}
_STEP: Final = 8  # channels: other widths have no fast kernel
_LEAST: Final = 2**20  # numbers: below, the calls themselves cost what the passes save


def norm_act(inputs: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """`act(norm(inputs))`, faster where it can be; running statistics are updated alike. Forward hooks are kept.

    Args:
        inputs: (N, C, H, W).
        norm: a batch norm, or what stands in its place.
        act: an activation.
    """
    fused = fused_act(act)
    # The processor is asked last: what is being captured by torch.compile cannot follow that call.
    if fused is None or not _is_fast(inputs, norm, act) or fused in _STOCK_IS_FASTER.get(processor_kind(), ()):
        return cast(Tensor, act(norm(inputs)))
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return cast(
        Tensor,
        _NormAct.apply(
            inputs, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, fused
        ),
    )


class _NormAct(torch.autograd.Function):
    """The norm with the statistics of the batch, then the activation; see the module's text."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        act: FusedAct,
    ) -> Tensor:
        """(N, C, H, W) to the same."""
        mean, variance = torch.batch_norm_update_stats(inputs, running_mean, running_var, momentum)
        inverse = (variance + eps).rsqrt_()
        factor = (weight * inverse).bfloat16()
        offset = (bias - mean * factor).bfloat16()
        outputs = per_channel(inputs, factor, offset, act)
        kept = outputs if act in ("relu", "hardtanh") else offset
        ctx.save_for_backward(inputs, kept, factor, weight, mean, inverse)
        ctx.act = act
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(N, C, H, W) to the gradients of the inputs, the weight and the bias."""
        inputs, kept, factor, weight, mean, inverse = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.act == "relu":
            # Read as integers, positive bfloat16 numbers are positive too, and the kernel need not convert them.
            bits = torch.ops.aten.threshold_backward(grad.view(torch.int16), kept.view(torch.int16), 0)
            grad = bits.view(torch.bfloat16)
        elif ctx.act == "hardtanh":
            grad = torch.ops.aten.hardtanh_backward(grad, kept, 0.0, 6.0)
        elif ctx.act == "hardswish":
            grad = torch.ops.aten.hardswish_backward(grad, per_channel(inputs, factor, kept, "none"))
        # The stock kernel is fast when only asked for the sums: of grad * normalised, and of grad.
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, inputs, weight, None, None, mean, inverse, True, 0.0, (False, True, True)
        )
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            # factor * (grad - mean(grad) - normalised * mean(grad * normalised)), as grad * a + inputs * b + c
            slope = (grad_weight * inverse).mul_(factor).div_(-count).bfloat16()
            offset = (grad_bias / -count).mul_(factor).addcmul_(slope, mean, value=-1).bfloat16()
            grad_inputs = per_channel(grad, factor, offset, "none")
            add_per_channel(grad_inputs, inputs, slope)
        return grad_inputs, grad_weight, grad_bias, None, None, None, None, None


def _is_fast(inputs: Tensor, norm: nn.Module, act: nn.Module) -> bool:
    """Whether this is training in bfloat16 on a CPU, of a plain norm that nobody listens to."""
    return (
        trains_on_cpu(inputs)
        and inputs.dtype == torch.bfloat16
        and inputs.requires_grad
        and isinstance(norm, nn.BatchNorm2d)
        and norm.training
        and norm.momentum is not None
        and norm.track_running_stats
        and norm.weight is not None
        and norm.weight.dtype == torch.float32
        and not is_heard(norm, act)
        and inputs.shape[1] % _STEP == 0
        and inputs.numel() >= _LEAST
        and has_fused_convolutions(torch.bfloat16)
    )
