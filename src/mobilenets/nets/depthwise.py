"""Depthwise convolution whose backward pass is fast on the CPU.

The forward pass is always the stock ``F.conv2d``.  Only the two gradients differ, and only
where the stock ones are slow:

* the gradient of the *input* is a stride-1 depthwise convolution of the (zero-inserted)
  output gradient with the flipped kernel.  That runs the well optimised forward kernel,
  while the stock bfloat16 backward of a strided depthwise convolution takes 25 to 400 times
  as long as its forward.
* the gradient of a *weight* is put together from 3x3 tiles where the stock kernel is slow: in
  bfloat16 where it is wider than 3, and in any format where it is wider than the map, which
  takes 3 to 50 times as long otherwise (V3 and V4 on small images);
* with AMX, that of one wider than 3 in bfloat16 is a depthwise *forward* convolution instead, of
  every image's map with its own gradient as the kernel, summed over the images: that takes half
  to three quarters of the tiles' time (docs/log.md).

Everything else (another device, another layout, dilation, graph capture, no gradient wanted)
is the stock operation, so an exported graph holds one ordinary grouped convolution.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .eager import Pair, processor_kind, stock_gradients, trains_on_cpu

__all__ = ["DepthwiseConv2d", "depthwise_conv2d"]

_TILE: Final = 3
"""Edge of the widest kernel whose stock weight gradient is fast in every format."""
_DOTS: Final = 4
"""Pixels of a map of gradients up to which tiles are as fast as an exchange."""


def depthwise_conv2d(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """Convolve every channel of ``inputs`` with its own kernel.

    Args:
        inputs: ``(N, C, H, W)``, channels-last for the fast backward.
        weight: ``(C * m, 1, kh, kw)``; the fast backward needs ``m == 1``.
        bias: ``(C * m,)`` or nothing.
        stride: step along height and width.
        padding: zeros on both sides of height and width; an asymmetric padding is the
            caller's ``F.pad``.
        dilation: spacing of the kernel taps.

    Returns:
        ``(N, C * m, H', W')`` with ``H' = (H + 2 * ph - dh * (kh - 1) - 1) // sh + 1``.
    """
    steps, pads, gaps = _pair(stride), _pair(padding), _pair(dilation)
    if not _has_fast_backward(inputs, weight, padding=pads, dilation=gaps):
        return F.conv2d(inputs, weight, bias, steps, pads, gaps, inputs.shape[1])
    if torch.is_autocast_enabled("cpu"):
        # Autocast does not see the calls inside a custom Function's backward, so the casts
        # happen here, where autograd records them.
        dtype = torch.get_autocast_dtype("cpu")
        inputs, weight = inputs.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    output = cast(
        Tensor,
        _DepthwiseConv2d.apply(inputs, weight, steps, pads),
    )
    return output if bias is None else output + bias.view(1, -1, 1, 1)


class DepthwiseConv2d(nn.Module):
    """A layer around :func:`depthwise_conv2d` that looks like a grouped ``nn.Conv2d``.

    Its attributes, its initial values and its state dict (``weight`` of ``(C, 1, k, k)`` and
    ``bias`` of ``(C,)`` if wanted) are those of ``nn.Conv2d(C, C, k, groups=C)``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = self.groups = channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.weight = nn.Parameter(torch.empty(channels, 1, *self.kernel_size))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values as ``nn.Conv2d`` does, in the same order."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.kernel_size))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H', W')``."""
        return depthwise_conv2d(
            inputs,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        """The arguments that differ between two layers."""
        return (
            f"{self.in_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )


class _DepthwiseConv2d(torch.autograd.Function):
    """Stock forward, our own gradients; see the module's text for why."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        """``(N, C, H, W)`` and ``(C, 1, kh, kw)`` to ``(N, C, H', W')``."""
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(inputs, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """``(N, C, H', W')`` to the gradients of the inputs and of the weight."""
        inputs, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_inputs: Tensor | None = None
        grad_weight: Tensor | None = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                grad_inputs = _input_gradient(grad, inputs, weight, stride, padding)
            if ctx.needs_input_grad[1]:
                grad_weight = _weight_gradient(grad, inputs, weight, stride, padding)
        return grad_inputs, grad_weight, None, None


def _has_fast_backward(inputs: Tensor, weight: Tensor, *, padding: Pair, dilation: Pair) -> bool:
    """Whether a gradient is wanted here and our own backward computes it at least as fast."""
    return (
        trains_on_cpu(inputs)
        and (inputs.requires_grad or weight.requires_grad)
        and inputs.dtype in (torch.float32, torch.bfloat16)
        and weight.shape[:2] == (inputs.shape[1], 1)
        and dilation == (1, 1)
        # A wider padding leaves the flipped kernel with a negative one.
        and padding[0] < weight.shape[2]
        and padding[1] < weight.shape[3]
    )


def _input_gradient(grad: Tensor, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Gradient of the ``(N, C, H, W)`` inputs from that of the ``(N, C, H', W')`` output."""
    channels, _, *kernel = weight.shape
    if stride != (1, 1):
        if grad.dtype == torch.float32:
            # The stock float32 gradient has a fast strided kernel; it beats the detour.
            return stock_gradients(grad, inputs, weight, stride, padding, (True, False))[0]
        height, width = (
            size + 2 * pad - edge + 1 for size, pad, edge in zip(inputs.shape[2:], padding, kernel, strict=True)
        )
        sparse = torch.empty(
            (grad.shape[0], channels, height, width),
            dtype=grad.dtype,
            memory_format=torch.channels_last,
        ).zero_()
        sparse[:, :, :: stride[0], :: stride[1]] = grad
        grad = sparse
    rest = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    return F.conv2d(grad, weight.flip(2, 3), None, 1, rest, 1, channels)


def _weight_gradient(grad: Tensor, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Gradient of the ``(C, 1, kh, kw)`` weight from that of the ``(N, C, H', W')`` output."""
    kernel = (weight.shape[2], weight.shape[3])
    fits = kernel[0] <= inputs.shape[2] and kernel[1] <= inputs.shape[3]
    if fits and (grad.dtype == torch.float32 or max(kernel) <= _TILE):
        return stock_gradients(grad, inputs, weight, stride, padding, (False, True))[1]
    if _exchange_is_faster(grad, weight):
        return _exchanged(grad, inputs, weight, stride, padding)
    height, width = inputs.shape[2:]
    # The rows and columns of the inputs that one tile of taps reads.
    rows = (grad.shape[2] - 1) * stride[0] + _TILE
    columns = (grad.shape[3] - 1) * stride[1] + _TILE
    tile = weight.new_empty((weight.shape[0], 1, _TILE, _TILE))
    result = torch.zeros_like(weight)
    for top in range(0, kernel[0], _TILE):
        for left in range(0, kernel[1], _TILE):
            above, before = padding[0] - top, padding[1] - left
            if not (-height < above < rows and -width < before < columns):
                continue  # These taps only ever read the padding.
            # A negative padding crops.
            window = F.pad(inputs, (before, columns - width - before, above, rows - height - above))
            part = stock_gradients(grad, window, tile, stride, (0, 0), (False, True))[1]
            result[:, :, top : top + _TILE, left : left + _TILE] = part[:, :, : kernel[0] - top, : kernel[1] - left]
    return result


def _exchange_is_faster(grad: Tensor, weight: Tensor) -> bool:
    """Whether `_exchanged` was measured to take less time than tiles."""
    wide, dots = max(weight.shape[2:]) > _TILE, grad.shape[2] * grad.shape[3] <= _DOTS
    return wide and not dots and grad.dtype == torch.bfloat16 and processor_kind() == "AMX"


def _exchanged(grad: Tensor, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The weight's gradient with gradients for kernels: each tap is the sum of a map times the gradient, shifted."""
    count, channels, height, width = inputs.shape
    # Images and channels together are the channels of one image.
    together = inputs.permute(2, 3, 0, 1).reshape(1, height, width, count * channels).permute(0, 3, 1, 2)
    kernels = grad.reshape(count * channels, 1, *grad.shape[2:])
    taps = F.conv2d(together, kernels, None, 1, padding, stride, count * channels)
    taps = taps[:, :, : weight.shape[2], : weight.shape[3]].reshape(count, *weight.shape)
    return taps.sum(0, dtype=torch.float32).to(weight.dtype)


def _pair(value: int | Pair) -> Pair:
    """The same value for height and width unless two are given."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
