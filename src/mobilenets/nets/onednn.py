"""oneDNN's convolution with an activation in it: the operator that `torch.compile` calls (`torch.ops.mkldnn`)."""

from __future__ import annotations

from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from .eager import Pair

__all__ = ["FusedAct", "add_per_channel", "convolve", "fused_act", "has_fused_convolutions", "per_channel"]

FusedAct = Literal["none", "relu", "hardtanh", "hardswish"]

_ARGUMENTS: Final[dict[FusedAct, list[float]]] = {"none": [], "relu": [], "hardtanh": [0.0, 6.0], "hardswish": []}


def has_fused_convolutions(dtype: torch.dtype) -> bool:
    """Whether torch has them, and this processor instructions for numbers of this type."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or not hasattr(torch.ops.mkldnn, "_convolution_pointwise_"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def fused_act(act: nn.Module) -> FusedAct | None:
    """The name of an activation among oneDNN's."""
    if isinstance(act, nn.Identity):
        return "none"
    if isinstance(act, nn.ReLU6):
        return "hardtanh"
    if isinstance(act, nn.ReLU):
        return "relu"
    return "hardswish" if isinstance(act, nn.Hardswish) else None


def convolve(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int,
    act: FusedAct = "none",
) -> Tensor:
    """act(convolution of (N, in, H, W) + bias), all of one type: (N, out, H', W')."""
    made = torch.ops.mkldnn._convolution_pointwise(
        inputs, weight, bias, padding, stride, dilation, groups, act, _ARGUMENTS[act], ""
    )
    return cast(Tensor, made)


def per_channel(inputs: Tensor, factor: Tensor, offset: Tensor, act: FusedAct) -> Tensor:
    """act(inputs * factor + offset), with a factor and an offset (C,) per channel."""
    return convolve(inputs, factor.view(-1, 1, 1, 1), offset, groups=inputs.shape[1], act=act)


def add_per_channel(total: Tensor, inputs: Tensor, factor: Tensor) -> None:
    """total += inputs * factor, with a factor (C,) per channel."""
    channels = inputs.shape[1]
    torch.ops.mkldnn._convolution_pointwise_(
        total, inputs, factor.view(-1, 1, 1, 1), None, [0, 0], [1, 1], [1, 1], channels, "add", None, None, [], None
    )
