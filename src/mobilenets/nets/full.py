"""Full convolution (one that mixes channels) whose weight gradient is computed otherwise where the stock one is slow.

Nearly all mult-adds of a MobileNet are in 1x1 convolutions (V1 Table 2: 95 %), and most of V4's first ones in fused 3x3
convolutions. The gradient of their weights is a sum over pixels, which oneDNN takes one row of an image at a time; on
small images rows are short, and its kernels idle: with AMX a row of 4 pixels costs as much as one of 32. Here

* the weight gradient of a 1x1 convolution is one matrix product, (out, pixels) by (pixels, in), over the pixels of all
  images of the batch; in channels-last memory nothing is copied for it;
* that of a wider kernel is the stock one of images laid side by side, with zeros between them, so that rows are long.

`_is_slow` says where that was measured to be faster (docs/log.md). Everything else (another processor, layout or
device, groups, dilation, graph capture), the output, and the gradient of the inputs are the stock operation.

A 1x1 convolution of one pixel, as in squeeze-and-excite, is a matrix product altogether; as a convolution, forwards and
back, it takes longer in every number format and on every processor that was measured.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .eager import autocast_or, processor_kind, stock_gradients, trains_on_cpu

__all__ = ["FullConv2d"]

_THIN: Final = 4096  # weights: below, AVX2's stock kernel is as fast
_HEAVY: Final = 16384  # weights: from here, AMX's stock kernel for 1x1 is slower however long the rows are
_SHORT: Final = 16  # pixels: AMX's stock kernels idle in shorter rows
_TINY: Final = 4  # pixels: AVX-512's do in rows that are not longer
_ROWS: Final = 8  # of images side by side


class FullConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` with the same attributes, initial values and state dict."""

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Conv2d has
        """``(N, in, H, W)`` to ``(N, out, H', W')``."""
        if not trains_on_cpu(input):
            return super().forward(input)
        if _is_product(self, input):
            return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        if self._may_differ(input):
            dtype = autocast_or(self.weight.dtype)
            columns = (input.shape[3] + 2 * self._pad - self.weight.shape[3]) // self.stride[1] + 1
            if _is_slow(dtype, self.weight, columns):
                # Autocast does not see the calls inside a custom Function's backward, so the casts happen here.
                made = _FullConv2d.apply(input.to(dtype), self.weight.to(dtype), self.stride[0], self._pad)
                return cast(Tensor, made)
        return super().forward(input)

    @property
    def _pad(self) -> int:
        return int(self.padding[1])

    def _may_differ(self, images: Tensor) -> bool:
        """Whether the gradient of the weight is wanted here, and could be computed otherwise."""
        height, width = self.weight.shape[2:]
        return (
            self.weight.requires_grad
            and (images.dtype == self.weight.dtype or torch.is_autocast_enabled("cpu"))
            and self.bias is None
            and self.groups == 1
            and self.dilation == (1, 1)
            and height == width
            and self.stride[0] == self.stride[1] <= width
            and self.padding == (width // 2, width // 2)  # a row of outputs is then as long as a row of inputs / stride
            and width % 2 == 1
        )


class _FullConv2d(torch.autograd.Function):
    """Stock forward and gradient of the inputs, our own gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: int, pad: int) -> Tensor:
        """``(N, in, H, W)`` and ``(out, in, k, k)`` to ``(N, out, H', W')``."""
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.pad = stride, pad
        return F.conv2d(inputs, weight, None, stride, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """``(N, out, H', W')`` to the gradients of the inputs and of the weight."""
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_inputs: Tensor | None = None
        grad_weight: Tensor | None = None
        if ctx.needs_input_grad[0]:
            steps, pads = (ctx.stride, ctx.stride), (ctx.pad, ctx.pad)
            grad_inputs = stock_gradients(grad, inputs, weight, steps, pads, (True, False))[0]
        if ctx.needs_input_grad[1]:
            if weight.shape[2] == 1:
                grad_weight = (_pixels(grad).T @ _pixels(inputs)).view_as(weight)
            else:
                grad_weight = _side_by_side_gradient(grad, inputs, weight, ctx.stride, ctx.pad)
        return grad_inputs, grad_weight, None, None


def _pixels(images: Tensor) -> Tensor:
    """``(N, C, H, W)`` in channels-last memory to ``(N * H * W, C)``, not copied."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _side_by_side_gradient(grad: Tensor, inputs: Tensor, weight: Tensor, stride: int, pad: int) -> Tensor:
    """The weight's gradient from images side by side.

    Between two of them are so many zeros that no kernel reads both, and where it reads them, `grad` is zero.
    """
    kernel = weight.shape[3]
    reach = max(inputs.shape[3] + pad, stride * (grad.shape[3] - 1) + kernel - pad)
    outputs = math.ceil(reach / stride)  # columns of one image and the zeros behind it
    beside = _side_by_side(grad, outputs), _side_by_side(inputs, outputs * stride)
    return stock_gradients(*beside, weight, (stride, stride), (pad, pad), (False, True))[1]


def _side_by_side(images: Tensor, width: int) -> Tensor:
    """``(N, C, H, W)`` to ``(R, C, H, N / R * width)``, for up to ``_ROWS`` rows R."""
    count, channels, height, columns = images.shape
    rows = math.gcd(count, _ROWS)
    made = images.new_zeros(rows, height, count // rows, width, channels)
    by_row = images.permute(0, 2, 3, 1).reshape(rows, count // rows, height, columns, channels)
    made[:, :, :, :columns] = by_row.transpose(1, 2)
    return made.flatten(2, 3).permute(0, 3, 1, 2)


def _is_product(layer: nn.Conv2d, images: Tensor) -> bool:
    """Whether all that the layer does to these images is one matrix product."""
    sizes = images.shape[2:], layer.weight.shape[2:]
    return sizes == ((1, 1), (1, 1)) and layer.padding == (0, 0) and layer.groups == 1


def _is_slow(dtype: torch.dtype, weight: Tensor, width: int) -> bool:
    """Whether the stock gradient of this weight, from rows of `width` outputs, takes longer than ours.

    Wider kernels were measured with AMX only, where ours copies what it reads.
    """
    kind, point = processor_kind(), weight.shape[3] == 1
    if dtype == torch.bfloat16:
        return kind == "AMX" and (width < _SHORT or (point and weight.numel() >= _HEAVY))
    if dtype == torch.float32 and point:
        return (kind == "AVX2" and weight.numel() >= _THIN) or (kind in ("AMX", "AVX-512") and width <= _TINY)
    return False
