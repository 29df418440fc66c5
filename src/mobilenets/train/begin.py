"""The network that training starts from: a table with fresh weights, or a bundle with its own."""

from __future__ import annotations

from itertools import islice

import torch

from ..arch import ArchSpec
from ..bundle import Bundle
from ..nets import Network, build, load_tensors, tensors_of
from ..nets.settle import settle_norms
from ..records import Preprocess, Task
from .loader import Batches, normalise

__all__ = ["begin"]

SETTLE_IMAGES = 512  # give norms that came folded their statistics


def begin(
    start: ArchSpec | Bundle,
    batches: Batches,
    *,
    labels: tuple[str, ...],
    task: Task = "classify",
    preprocess: Preprocess,
    seed: int,
    device: torch.device,
) -> Network:
    """The network on its device, channels last.

    Args:
        start: a table, whose weights are drawn, or a bundle, whose classifier is drawn where the labels or the task are
            others.
        batches: give norms that came folded their statistics.
        labels: class names of the data.
        task: what they are for.
        preprocess: how images are normalised.
        seed: of what is drawn.
        device: where the network goes.

    Raises:
        FileFormatError: the bundle's tensors do not fit its table.
    """
    torch.manual_seed(seed)
    if not isinstance(start, Bundle):
        return build(start).to(device).to(memory_format=torch.channels_last)
    network = build(start.spec)
    load_tensors(network, {**tensors_of(network), **start.carried_to(labels, task).tensors})
    network = network.to(device).to(memory_format=torch.channels_last)
    if start.folded_norms:
        drawn = islice(batches.epoch(0), -(-SETTLE_IMAGES // batches.size))
        settle_norms(network, (normalise(batch.pixels.to(device), preprocess) for batch in drawn))
    return network
