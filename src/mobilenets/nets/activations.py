"""ReLU and ReLU6 that train fast in bfloat16 on the CPU.

The stock bfloat16 kernels convert every number to float32 and back. Read as 16-bit integers, the bit patterns of
bfloat16 numbers from zero up stand in the same order as the numbers, and all negative numbers are negative integers; so
both functions are a clamp of integers, with the same bits as a result. Everything but training in bfloat16 on the CPU
(another device, float32, export, no gradient wanted) is the stock operation.

NaN does not survive that clamp as NaN, so whoever trains has to look at the weights and not only at the loss
(`train.loop` does).
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ReLU", "ReLU6"]

SIX: Final = 0x40C0  # 6.0 in bfloat16
LARGEST: Final = 0x7F7F  # the largest finite bfloat16


class _Clamp(torch.autograd.Function):
    """max(x, 0), and at most the number whose bits are `top`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, top: int) -> Tensor:
        outputs = inputs.view(torch.int16).clamp(0, top).view(torch.bfloat16)
        ctx.save_for_backward(outputs)
        ctx.top = top
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (outputs,) = ctx.saved_tensors
        if ctx.top == SIX:
            return torch.ops.aten.hardtanh_backward(gradient, outputs, 0.0, 6.0), None
        bits = torch.ops.aten.threshold_backward(gradient.view(torch.int16), outputs.view(torch.int16), 0)
        return bits.view(torch.bfloat16), None


class ReLU(nn.Module):
    """max(x, 0)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape to the same."""
        return cast(Tensor, _Clamp.apply(inputs, LARGEST)) if _fast(inputs) else F.relu(inputs)


class ReLU6(nn.Module):
    """min(max(x, 0), 6) (Krizhevsky 2010)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape to the same."""
        return cast(Tensor, _Clamp.apply(inputs, SIX)) if _fast(inputs) else F.relu6(inputs)


def _fast(inputs: Tensor) -> bool:
    return (
        inputs.dtype == torch.bfloat16
        and inputs.device.type == "cpu"
        and torch.is_grad_enabled()
        and inputs.requires_grad
        and not torch.compiler.is_compiling()
    )
