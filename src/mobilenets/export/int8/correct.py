"""Biases that take back what rounded weights add on average."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bytes import QUANTIZED
from .model import Model
from .weights import rounded

__all__ = ["corrected"]


def corrected(
    proto: Any,
    means: Mapping[str, NDArray[np.float32]],
    steps: Mapping[str, NDArray[np.float32]],
    *,
    floats: Collection[str] = (),
) -> Any:
    """The graph with each bias less by the mean of what rounding its weights adds.

    Nagel et al. 2019 (arXiv:1906.04721, section 4.2): the error of the weights times the mean of the input. The means
    are those of calibration images, where the paper derives them from norms; what padding does at the borders is
    neglected.

    Args:
        proto: the graph as `prepared` makes it.
        means: of the inputs of its convolutions and products, from `channel_means`.
        steps: of their weights, from `layer_steps`.
        floats: names of nodes that stay float32.
    """
    model = Model(proto)
    for node in model.nodes:
        if node.op_type not in ("Conv", "Gemm") or node.op_type not in QUANTIZED or node.name in floats:
            continue
        weight = model.constants[node.input[1]]
        depthwise = model.is_depthwise(node)
        error = rounded(weight, steps[node.input[1]]).astype(np.float64) - weight
        error = error.reshape(*error.shape[:2], -1).sum(axis=2)
        mean = means[node.input[0]].astype(np.float64)
        added = error[:, 0] * mean if depthwise else error @ mean
        model.constants[node.input[2]] = (model.constants[node.input[2]] - added).astype(np.float32)
    return model.proto()
