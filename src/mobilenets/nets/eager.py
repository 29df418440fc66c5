"""Where layers of our own may take the place of the stock ones."""

import torch
from torch import Tensor

__all__ = ["trains_on_cpu"]


def trains_on_cpu(images: Tensor) -> bool:
    """Whether a pass over (N, C, H, W) in channels-last memory on a CPU is recorded for gradients, and not captured."""
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and images.device.type == "cpu"
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
    )
