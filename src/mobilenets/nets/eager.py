"""Where layers of our own may take the place of the stock ones."""

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ..processor import has_amx

__all__ = ["ProcessorKind", "processor_kind", "trains_on_cpu"]

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
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and images.device.type == "cpu"
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
    )
