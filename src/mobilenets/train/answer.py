"""A bundle that answers images, by its torch network: what `runtime.predict` asks of an artifact."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import UsageError
from ..nets import build, load_tensors
from ..records import Preprocess, Task
from .forward import forward_all
from .machine import pick_device

__all__ = ["BundleModel"]


@final
class BundleModel:
    """The network of a bundle, ready to answer in float32.

    Args:
        bundle: a network whose classes or labels were trained.
        device: "auto", "cpu", "cuda", ...

    Raises:
        UsageError: no such device, or the classifier was never trained.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto") -> None:
        if bundle.untrained_classifier:
            raise UsageError(
                f"the classifier of this {bundle.spec.name} was never trained: the file it came from has none",
                wanted="a network that tells classes apart",
                do="train it on labelled images first: mobilenets train BUNDLE DATA",
            )
        self._bundle = bundle
        self._device = pick_device(device)
        network = build(bundle.spec)
        load_tensors(network, bundle.tensors)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._bundle.labels

    @property
    def preprocess(self) -> Preprocess:
        """How its images are made."""
        return self._bundle.preprocess

    @property
    def task(self) -> Task:
        """What the logits mean."""
        return self._bundle.task

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels uint8 (N, R, R, C) -> logits float32 (N, classes)."""
        return forward_all(self._network, pixels, self.preprocess, device=self._device, dtype=torch.float32)
