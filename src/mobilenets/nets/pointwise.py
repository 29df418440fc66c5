"""Pointwise convolution whose weight gradient is one matrix product, where the stock kernel is slower.

Nearly all mult-adds of a MobileNet are in 1x1 convolutions (V1 Table 2: 95 %). Over channels-last memory the gradient
of their weights is the product of two matrices, (out, pixels) and (pixels, in), whose rows are the pixels of all images
of the batch. On processors with AVX2 and no AVX-512 oneDNN's float32 kernel for it takes up to 2.8 times as long as
that product (docs/log.md); thin layers are the exception. Elsewhere, and for the output and the gradient of the inputs,
the stock operation runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["PointwiseConv2d"]

_LEAST: Final = 4096  # weights: below, the stock kernel is as fast


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 ``nn.Conv2d`` of stride 1: the same attributes, initial values and state dict."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Conv2d has
        """``(N, in, H, W)`` to ``(N, out, H, W)``."""
        if self.bias is None and _is_fast(input, self.weight):
            return cast(Tensor, _PointwiseConv2d.apply(input, self.weight))
        return super().forward(input)


class _PointwiseConv2d(torch.autograd.Function):
    """Stock forward and gradient of the inputs, our own gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        """``(N, in, H, W)`` and ``(out, in, 1, 1)`` to ``(N, out, H, W)``."""
        ctx.save_for_backward(inputs, weight)
        return F.conv2d(inputs, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """``(N, out, H, W)`` to the gradients of the inputs and of the weight."""
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_inputs: Tensor | None = None
        grad_weight: Tensor | None = None
        if ctx.needs_input_grad[0]:
            grad_inputs = torch.ops.aten.convolution_backward(
                grad, inputs, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            grad_weight = (_pixels(grad).T @ _pixels(inputs)).view_as(weight)
        return grad_inputs, grad_weight


def _pixels(images: Tensor) -> Tensor:
    """``(N, C, H, W)`` in channels-last memory to ``(N * H * W, C)``, not copied."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _is_fast(inputs: Tensor, weight: Tensor) -> bool:
    """Whether the gradient of this weight is wanted, and faster as a matrix product."""
    return (
        inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and weight.numel() >= _LEAST
        and inputs.dim() == 4
        and inputs.is_contiguous(memory_format=torch.channels_last)
        and _product_is_faster()
    )


@cache
def _product_is_faster() -> bool:
    """Whether this is a processor of the kind that it was measured on."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
