"""What layers of our own share: where they may take the place of the stock ones, and the stock gradients."""

from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..processor import has_amx

__all__ = [
    "Pair",
    "ProcessorKind",
    "autocast_or",
    "is_heard",
    "processor_kind",
    "runs_on_cpu",
    "stock_gradients",
    "trains_on_cpu",
]

Pair = tuple[int, int]
ProcessorKind = Literal["AMX", "AVX-512", "AVX2", "other"]


@cache
def processor_kind() -> ProcessorKind:
    """The processor, among the kinds that kernels were measured on, as torch's kernels see it."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return "AMX" if has_amx() else "AVX-512"
    return "AVX2" if capability == "AVX2" else "other"


def trains_on_cpu(images: Tensor) -> bool:
    """Whether a pass over (N, C, H, W) in channels-last memory on a CPU is recorded for gradients, and not captured."""
    return torch.is_grad_enabled() and runs_on_cpu(images)


def runs_on_cpu(images: Tensor) -> bool:
    """Whether these are (N, C, H, W) in channels-last memory on a CPU, and no graph is captured of the pass."""
    return (
        not torch.compiler.is_compiling()
        and images.device.type == "cpu"
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
    )


def autocast_or(dtype: torch.dtype) -> torch.dtype:
    """The type that autocast computes in on a CPU; `dtype` where there is none."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype


def is_heard(*layers: nn.Module) -> bool:
    """Whether one of the layers has forward hooks, and so must be called itself."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def stock_gradients(
    grad: Tensor, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The library's gradients of the inputs and of the weight of a convolution, undefined where not wanted.

    Args:
        grad: ``(N, out, H', W')``, of the output.
        inputs: ``(N, in, H, W)``.
        weight: ``(out, in / groups, kh, kw)``; its shape tells the groups.
        stride: along height and width.
        padding: zeros on both sides of height and width.
        wanted: the gradient of the inputs, of the weight.
    """
    groups = inputs.shape[1] // weight.shape[1]
    made = torch.ops.aten.convolution_backward(
        grad, inputs, weight, None, stride, padding, (1, 1), False, (0, 0), groups, (*wanted, False)
    )
    return cast("tuple[Tensor, Tensor]", tuple(made[:2]))
