"""A teacher: a trained network that is asked about the images a student learns from, and is not changed by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..bundle import Bundle
from ..errors import UsageError
from ..nets import Network, build, load_tensors
from ..records import Preprocess
from ..runtime.validate import match_labels
from .loader import normalise
from .machine import lower_precision
from .objective import Batch, Setting

__all__ = ["Teacher", "own_classes", "with_maps"]

CACHE_BYTES = 2**30  # of answers that are kept; beyond, the teacher is asked again each time
CACHE_BATCH = 256


@final
class Teacher:
    """The teacher of a run.

    Args:
        setting: of the run.
        bundle: the trained network.
        answers: whether its answers are wanted, and not its maps alone.

    Raises:
        UsageError: it lacks a class of the data (it may have more, and in another order), was never trained to tell
            classes apart, or wants more colours than the images have.
    """

    def __init__(self, setting: Setting, bundle: Bundle, *, answers: bool = True) -> None:
        self._setting, self._theirs = setting, bundle.preprocess
        self.digest, self.name = bundle.digest, bundle.spec.name
        if setting.preprocess.channels > bundle.preprocess.channels:
            raise UsageError(
                f"the teacher takes images of {bundle.preprocess.channels} channel, the student of "
                f"{setting.preprocess.channels}",
                wanted="as many, or a student that is content with grey",
                do="choose another teacher",
            )
        self._own = own_classes(bundle, setting.labels) if answers else np.arange(len(bundle.labels))
        network = build(bundle.spec)
        load_tensors(network, bundle.tensors)
        self.network = network.to(setting.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._kept: Tensor | None = None
        self.keeps = setting.batches.fixed_views and len(setting.batches) * len(self._own) * 4 <= CACHE_BYTES

    def logits(self, batch: Batch) -> Tensor:
        """What it says of a batch, for the student's classes (B, K), float32; looked up where views are fixed."""
        if not self.keeps:
            return self.answer(batch.images)[0]
        if self._setting.trial:  # a step that looks answers up takes as long, whatever they are
            return torch.zeros(len(batch.images), len(self._own), device=self._setting.device)
        if self._kept is None:
            self._kept = self._all_answers()
        return self._kept[torch.from_numpy(batch.which)].to(self._setting.device, non_blocking=True)

    def answer(self, images: Tensor, rows: Iterable[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Logits for the student's classes (B, K), float32, of images normalised for the student, and maps of rows."""
        setting = self._setting
        with torch.no_grad(), lower_precision(setting.dtype, setting.device):
            seen = _as_the_teacher_sees(images, ours=setting.preprocess, theirs=self._theirs)
            logits, maps = with_maps(self.network, seen, rows)
        return logits.float()[:, torch.from_numpy(self._own).to(logits.device)], maps

    def _all_answers(self) -> Tensor:
        """Logits (N, K) of the training images as they are. Made in the order of the images, at the first step of each
        process, so that a run that goes on has the same bits."""
        parts = []
        for pixels in self._setting.batches.in_order(CACHE_BATCH):
            images = normalise(pixels.to(self._setting.device), self._setting.preprocess)
            parts.append(self.answer(images)[0].cpu())
        return torch.cat(parts)


def own_classes(teacher: Bundle, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Where the student's classes stand among the teacher's (K,).

    Raises:
        UsageError: it lacks one, or was never trained to tell classes apart.
    """
    if teacher.untrained_classifier:
        raise UsageError(
            f"the classifier of the teacher {teacher.spec.name} was never trained",
            wanted="a teacher that tells the classes apart",
            do="train it first, or learn from its features only: weight 0",
        )
    try:
        return match_labels(teacher.labels, labels)
    except UsageError as error:
        raise UsageError(
            f"the teacher {teacher.spec.name} is no teacher for this data: {error.got}",
            wanted=error.wanted,
            do="take a teacher that was trained on these classes, or learn from its features only: weight 0",
        ) from error


def with_maps(network: Network, images: Tensor, rows: Iterable[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the outputs of some rows. No hooks: what is hung on the network would be copied with it."""
    wanted, maps = list(rows), {}
    if not wanted:
        whole: Tensor = network(images)  # as it is called, compiled perhaps
        return whole, []
    value = images
    for place, row in enumerate(network.rows):
        value = row(value)
        if place in wanted:
            maps[place] = value
    logits: Tensor = network.head(value)
    return logits, [maps[place] for place in wanted]


def _as_the_teacher_sees(images: Tensor, *, ours: Preprocess, theirs: Preprocess) -> Tensor:
    """Images (B, C, R, R) normalised for the student, as the teacher's preprocessing makes them of these pixels."""

    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=images.device).view(1, -1, 1, 1)

    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        images = (images * column(ours.std) + column(ours.mean) - column(theirs.mean)) / column(theirs.std)
    images = images.expand(-1, theirs.channels, -1, -1)
    if images.shape[-1] != theirs.resolution:
        size = (theirs.resolution, theirs.resolution)
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)
