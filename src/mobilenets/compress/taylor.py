"""How much the loss would change without a channel, to first order, on images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bundle import Bundle
from ..errors import UsageError
from ..nets import build, load_tensors
from ..tasks import TASKS, Targets
from .importance import Scores, of_units
from .widths import widths

__all__ = ["taylor_scores"]


def taylor_scores(bundle: Bundle, batches: Iterable[tuple[Tensor, Tensor]], *, device: torch.device) -> Scores:
    """Squared first-order change of the loss for every unit, averaged over the batches.

    The measure is that of Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", section 3.

    A unit is removed by multiplying it with 0 for all who read it. The slope of the loss against that one factor, at
    1, is the sum of weight times gradient over all weights that read the unit, through every row of a residual group:
    the paper's gate, without a gate. All scores are changes of the same loss and need no norm per layer.

    Args:
        bundle: the network; asked in evaluation mode, with the statistics its norms have.
        batches: normalised images (N, C, R, R) with class indices int64 (N,), on the device. Some hundred images are
            enough to rank by.
        device: where to compute.

    Raises:
        UsageError: there are no images.
    """
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    loss = TASKS["classify"].loss
    parameters = dict(network.named_parameters())
    known = widths(bundle.spec)
    readers = {width.name: [place for place in width.places if place.role == "reads"] for width in known}
    read = {place.tensor for places in readers.values() for place in places}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in read)
    sums = {width.name: np.zeros(width.size) for width in known}
    count = 0
    for images, classes in batches:
        network.zero_grad(set_to_none=True)
        loss(network(images), Targets(classes), 0.0).backward()  # type: ignore[no-untyped-call]
        products = {name: _product(parameters[name]) for name in read}
        for width in known:
            slope = sum(of_units(products[place.tensor], width, place).sum(axis=1) for place in readers[width.name])
            sums[width.name] += np.square(slope)
        count += 1
    if not count:
        raise UsageError("no image to ask", wanted="some hundred training images", do="give training images")
    return {name: total / count for name, total in sums.items()}


def _product(weight: Tensor) -> NDArray[np.float64]:
    assert weight.grad is not None  # every layer of a table has its part in the answer
    product: NDArray[np.float64] = (weight.detach() * weight.grad).cpu().double().numpy()
    return product
