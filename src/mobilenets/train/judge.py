"""How good the weights are: validation, with norms that fit them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .machine import lower_precision

__all__ = ["EvalPixels", "recalibrated"]


@dataclass(frozen=True)
class EvalPixels:
    """Prepared images uint8 (N, R, R, C) with targets as in `data.Split`."""

    images: NDArray[np.uint8]
    targets: NDArray[Any]


def recalibrated(
    network: nn.Module, images: Iterable[Tensor], *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A copy whose norms hold the statistics of these images (batches of (B, C, R, R), normalised, on the device).

    Averaged weights give other activations than the weights whose statistics were averaged beside them (Izmailov et
    al. 2018, section 3). Statistics are plain means over the batches; norms that are not trained keep theirs.
    """
    made = copy.deepcopy(network).eval()
    for norm in made.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.weight.requires_grad:
            norm.reset_running_stats()
            norm.momentum = None  # torch: the mean over all batches
            norm.train()
    with torch.no_grad(), lower_precision(dtype, device):
        for batch in images:
            made(batch)
    return made.eval()
