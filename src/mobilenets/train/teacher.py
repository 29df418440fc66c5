"""A teacher: a trained network that is asked about the images a student learns from, and is not changed by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bundle import Bundle
from ..errors import UsageError
from ..nets import Network, build, load_tensors
from ..records import Preprocess, Task
from ..runtime.validate import match_labels
from .augment import resized
from .loader import normalise
from .machine import lower_precision, to_device
from .objective import Batch, Setting

__all__ = ["Seen", "Teacher", "look", "own_classes"]

CACHE_BYTES = 2**30  # of answers that are kept; beyond, the teacher is asked again each time
CACHE_BATCH = 256


class Seen(NamedTuple):
    """What a network makes of B images."""

    logits: Tensor  # (B, K)
    embedding: Tensor  # (B, D), what the classifier reads; D = 0 where it is not asked for
    maps: list[Tensor]  # outputs of the rows that were asked for, in that order


@final
class Teacher:
    """The teacher of a run.

    Args:
        setting: of the run.
        bundle: the trained network.
        answers: whether its answers are wanted, and not its maps or embedding alone.
        embedding: whether what its classifier reads is wanted.

    Raises:
        UsageError: it lacks a class of the data (it may have more, and in another order), is of another task, was never
            trained to tell classes apart, or wants more colours than the images have.
    """

    def __init__(self, setting: Setting, bundle: Bundle, *, answers: bool = True, embedding: bool = False) -> None:
        self._setting, self._theirs, self._embeds = setting, bundle.preprocess, embedding
        self.digest, self.name = bundle.digest, bundle.spec.name
        if setting.preprocess.channels > bundle.preprocess.channels:
            raise UsageError(
                f"the teacher takes images of {bundle.preprocess.channels} channel, the student of "
                f"{setting.preprocess.channels}",
                wanted="as many, or a student that is content with grey",
                do="choose another teacher",
            )
        self._own = own_classes(bundle, setting.labels, task=setting.task) if answers else np.zeros(0, np.int64)
        network = build(bundle.spec)
        load_tensors(network, bundle.tensors)
        self.network = network.to(setting.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._kept: Tensor | None = None
        self._width = len(self._own) + (self.network.head.classifier.in_features if embedding else 0)
        self.keeps = setting.batches.fixed_views and len(setting.batches) * self._width * 4 <= CACHE_BYTES

    def logits(self, batch: Batch) -> Tensor:
        """What it says of a batch, for the student's classes (B, K), float32; looked up where views are fixed."""
        return self.seen(batch).logits

    def seen(self, batch: Batch) -> Seen:
        """What it says and, where that is wanted, its embedding, float32; looked up where views are fixed."""
        if not self.keeps:
            return self.look(batch.images)
        setting = self._setting
        if setting.trial:  # a step that looks answers up takes as long, whatever they are
            both = torch.zeros(len(batch.images), self._width, device=setting.device)
        else:
            if self._kept is None:
                self._kept = self._all_answers()
            both = to_device(self._kept[torch.from_numpy(batch.which)], setting.device)
        return Seen(both[:, : len(self._own)], both[:, len(self._own) :], [])

    def look(self, images: Tensor, rows: Iterable[int] = ()) -> Seen:
        """What it makes of images that are normalised for the student, and the maps of rows.

        Logits are for the student's classes (B, K), or (B, 0) where answers are not wanted; float32 like the embedding.
        """
        setting = self._setting
        with torch.no_grad(), lower_precision(setting.dtype, setting.device):
            theirs = _as_the_teacher_sees(images, ours=setting.preprocess, theirs=self._theirs)
            seen = look(self.network, theirs, rows, embedding=self._embeds)
        logits = seen.logits.float()[:, to_device(torch.from_numpy(self._own), theirs.device)]
        return Seen(logits, seen.embedding.float(), seen.maps)

    def _all_answers(self) -> Tensor:
        """Logits and embeddings (N, K + D) of the training images as they are.

        Made in the order of the images, at the first step of each process, so that a run that goes on has the same
        bits.
        """
        parts = []
        for pixels in self._setting.batches.in_order(CACHE_BATCH):
            images = normalise(pixels.to(self._setting.device), self._setting.preprocess)
            seen = self.look(images)
            parts.append(torch.cat([seen.logits, seen.embedding], dim=1).cpu())
        return torch.cat(parts)


def own_classes(teacher: Bundle, labels: tuple[str, ...], *, task: Task) -> NDArray[np.int64]:
    """Where the student's classes stand among the teacher's (K,).

    Raises:
        UsageError: it lacks one, is of another task, or was never trained to tell classes apart.
    """
    if teacher.task != task:
        raise UsageError(
            f"the teacher {teacher.spec.name} is of the task {teacher.task!r}, the data of {task!r}",
            wanted="both of the same task",
            do="train a teacher on such data, or match its maps or embedding alone: weight 0",
        )
    if teacher.untrained_classifier:
        raise UsageError(
            f"the classifier of the teacher {teacher.spec.name} was never trained",
            wanted="a teacher that tells the classes apart",
            do="train it first, or match its maps or embedding alone: weight 0",
        )
    try:
        return match_labels(teacher.labels, labels)
    except UsageError as error:
        raise UsageError(
            f"the teacher {teacher.spec.name} is no teacher for this data: {error.got}",
            wanted=error.wanted,
            do="take a teacher that was trained on these classes, or match its maps or embedding alone: weight 0",
        ) from error


def look(network: Network, images: Tensor, rows: Iterable[int] = (), *, embedding: bool = False) -> Seen:
    """What a network makes of images. No hooks: what is hung on the network would be copied with it."""
    wanted, maps = list(rows), {}
    nothing = images.new_zeros(len(images), 0)
    if not wanted and not embedding:
        return Seen(network(images), nothing, [])  # as it is called, compiled perhaps
    value = images
    for place, row in enumerate(network.rows):
        value = row(value)
        if place in wanted:
            maps[place] = value
    vector = network.head.embedding(value)
    logits = network.head.answers(vector)
    return Seen(logits, vector if embedding else nothing, [maps[place] for place in wanted])


def _as_the_teacher_sees(images: Tensor, *, ours: Preprocess, theirs: Preprocess) -> Tensor:
    """Images (B, C, R, R) normalised for the student, as the teacher's preprocessing makes them of these pixels."""

    def column(values: tuple[float, ...]) -> Tensor:
        return to_device(torch.tensor(values), images.device).view(1, -1, 1, 1)

    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        images = (images * column(ours.std) + column(ours.mean) - column(theirs.mean)) / column(theirs.std)
    images = images.expand(-1, theirs.channels, -1, -1)
    return resized(images, theirs.resolution)
