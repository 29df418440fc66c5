"""A network's answers to prepared images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..records import Preprocess
from .loader import normalise
from .machine import lower_precision

__all__ = ["forward_all"]

EVAL_BATCH = 256


def forward_all(
    network: nn.Module, images: NDArray[np.uint8], preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
) -> NDArray[np.float32]:
    """Logits (N, classes) of prepared images (N, R, R, C), with the network in evaluation mode."""
    network.eval()
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode(), lower_precision(dtype, device):
        for begin in range(0, len(images), EVAL_BATCH):
            batch = torch.from_numpy(np.array(images[begin : begin + EVAL_BATCH])).to(device)
            parts.append(network(normalise(batch, preprocess)).float().cpu().numpy())
    return np.concatenate(parts)
