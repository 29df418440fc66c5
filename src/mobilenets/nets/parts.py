"""The parts that rows are built of: convolution with norm and activation, squeeze-and-excite, attention."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.layers import same_pads
from ..arch.rows import Activation, Layer
from ..arch.spec import Norm, Padding
from ..errors import SpecError
from .depthwise import DepthwiseConv2d
from .eager import trains_on_cpu
from .folded import folded
from .full import FullConv2d
from .norm_act import norm_act

__all__ = ["ConvNormAct", "GlobalMean", "LayerScale", "MultiQueryAttention", "SqueezeExcite", "activation"]


FIRST_SCALE: Final = 1e-5  # of a layer scale, as V4's hybrids were trained (Model Garden, timm)


def activation(name: Activation) -> nn.Module:
    """The module of an activation's name.

    Raises:
        SpecError: there is no such activation.
    """
    if name == "relu":
        return nn.ReLU()
    if name == "relu6":
        return nn.ReLU6()
    if name == "hard_swish":
        # Not in place: on CPUs, writing bfloat16 over its own input is slower than writing it elsewhere.
        return nn.Hardswish()
    if name == "gelu":
        return nn.GELU()  # with erf, not one of its approximations
    if name == "none":
        return nn.Identity()
    raise SpecError(
        f"activation is {name!r}", wanted="relu, relu6, hard_swish, gelu or none", do="correct act in that row"
    )


class SamePad(nn.Module):
    """TensorFlow's SAME padding (`arch.same_pads`), put before a strided layer.

    `kernel` is what the kernel spans: with dilation, more than it has taps.
    """

    def __init__(self, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + pad, W + pad)."""
        rows, columns = (same_pads(size, reach=self.kernel, stride=self.stride) for size in inputs.shape[-2:])
        return F.pad(inputs, (*columns, *rows))


class ConvNormAct(nn.Module):
    """One layer of a table as torch runs it: [pad], convolution, [batch norm], activation."""

    def __init__(self, layer: Layer, act: Activation, *, norm: Norm, padding: Padding) -> None:
        super().__init__()
        if padding not in ("symmetric", "same"):
            raise SpecError(f"padding is {padding!r}", wanted="'symmetric' or 'same'", do="correct padding in the spec")
        strided = layer.stride > 1
        # With stride 1 and an odd kernel both conventions pad the same, so only strided layers need their own pad.
        self.pad = SamePad(kernel=layer.reach, stride=layer.stride) if padding == "same" and strided else nn.Identity()
        inside = 0 if padding == "same" and strided else layer.reach // 2
        self.conv: nn.Module
        if layer.kind == "depthwise":
            self.conv = DepthwiseConv2d(
                layer.out_channels,
                layer.kernel,
                stride=layer.stride,
                padding=inside,
                dilation=layer.dilation,
                bias=layer.bias,
            )
        else:
            self.conv = FullConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                stride=layer.stride,
                padding=inside,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
        self.norm = (
            nn.BatchNorm2d(layer.out_channels, eps=norm.eps, momentum=norm.momentum) if layer.norm else nn.Identity()
        )
        self.act = activation(act)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        padded = self.pad(inputs)
        answer = folded(padded, self.conv, self.norm, self.act)
        return norm_act(self.conv(padded), self.norm, self.act) if answer is None else answer


class GlobalMean(nn.AdaptiveAvgPool2d):
    """The mean per channel, whose gradient has the memory layout of the images.

    The stock one's is written channel by channel, and what is added to it, or made of it further back, then runs over
    two layouts: a training step of V3-Small in bfloat16 takes 1.25 to 1.4 times as long (`benchmarks/train_step.py`).
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        if trains_on_cpu(input):
            return input.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]
        return super().forward(input)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite (V3 section 5.3): mean per channel, 1x1 to `squeeze`, ReLU, 1x1 back, hard sigmoid, scale."""

    def __init__(self, squeeze: Layer, excite: Layer) -> None:
        super().__init__()
        self.pool = GlobalMean()
        self.squeeze = FullConv2d(squeeze.in_channels, squeeze.out_channels, 1)
        self.excite = FullConv2d(excite.in_channels, excite.out_channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the same, each channel scaled by a number in [0, 1]."""
        scale = F.relu(self.squeeze(self.pool(inputs)))
        return inputs * F.hardsigmoid(self.excite(scale))


class LayerScale(nn.Module):
    """A trained factor per channel (Touvron et al. 2021), first 1e-5 as V4's hybrids were trained."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((layer.out_channels,), FIRST_SCALE))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return inputs * self.gamma.view(1, -1, 1, 1)


class MultiQueryAttention(nn.Module):
    """Every query of every head against one set of keys and values (Shazeer 2019)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.heads = layer.groups

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, heads * K, H, W), (N, K, h, w) and (N, V, h, w) to (N, heads * V, H, W)."""
        batch, channels, height, width = query.shape
        queries = query.reshape(batch, self.heads, channels // self.heads, height * width).transpose(2, 3)
        # All heads share the keys, so they are one head with as many times more queries.
        keys, values = (part.flatten(2).transpose(1, 2).unsqueeze(1) for part in (key, value))
        found: Tensor = F.scaled_dot_product_attention(queries.flatten(1, 2).unsqueeze(1), keys, values)
        planes = found.reshape(batch, self.heads, height * width, value.shape[1]).transpose(2, 3)
        return planes.reshape(batch, self.heads * value.shape[1], height, width)
