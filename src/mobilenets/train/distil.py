"""An objective that learns from a teacher: its softened answers, and its feature maps where that is wished.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; feature maps as in Romero et
al., "FitNets", 2015. The teacher sees the very images that the student sees, distorted and mixed alike (Beyer et al.
2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bundle import Bundle
from ..errors import RecipeError, SpecError, UsageError
from ..nets import Network, build, levels, load_tensors
from ..records import Preprocess
from ..runtime.validate import match_labels
from ..tasks import TASKS
from .loader import normalise
from .machine import lower_precision
from .objective import Batch, MakeObjective, Setting

__all__ = ["Distil", "Distillation", "check_teacher", "distil"]

CACHE_BYTES = 2**30  # of answers that are kept; beyond, the teacher is asked again each time
CACHE_BATCH = 256


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned from the teacher, and how much.

    Raises:
        RecipeError: naming the field that cannot be.
    """

    temperature: float = 4.0  # both networks' logits are divided by it
    weight: float = 0.9  # of the teacher's answers; the labels have the rest
    features: tuple[int, ...] = ()  # reductions whose last maps are matched: input pixels per pixel of the map
    feature_weight: float = 1.0  # of each such map; its loss is 1 for a map that explains nothing of the teacher's

    def __post_init__(self) -> None:
        for field, ok, wanted in (
            ("temperature", self.temperature > 0, "above 0"),
            ("weight", 0 <= self.weight <= 1, "in [0, 1]"),
            ("features", len(set(self.features)) == len(self.features), "each reduction once"),
            ("feature_weight", self.feature_weight >= 0, "at least 0"),
            ("weight", self.weight > 0 or bool(self.features), "above 0, or features to match"),
        ):
            if not ok:
                raise RecipeError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")


def distil(teacher: Bundle, how: Distillation | None = None) -> MakeObjective:
    """Makes the objective of runs that learn from `teacher`.

    The objective raises UsageError where the teacher lacks a class of the data (it may have more, and in another
    order), was never trained to tell classes apart, or wants more colours than the images have; and SpecError for a
    reduction at which one of the two has no map.
    """
    return lambda setting: Distil(setting, teacher, how or Distillation())


def check_teacher(teacher: Bundle, labels: tuple[str, ...], how: Distillation) -> None:
    """Whether a teacher can answer for these classes, so that it is told before anything is written.

    Raises:
        UsageError: it lacks a class, or was never trained to tell classes apart.
    """
    if how.weight:
        _own_classes(teacher, labels)


@final
class Distil:
    """The task's loss, the teacher's answers and the teacher's maps, weighed."""

    def __init__(self, setting: Setting, teacher: Bundle, how: Distillation) -> None:
        self._setting, self._how = setting, how
        self._task = TASKS["classify"]
        self._digest, self._name = teacher.digest, teacher.spec.name
        self._theirs = teacher.preprocess
        if setting.preprocess.channels > teacher.preprocess.channels:
            raise UsageError(
                f"the teacher takes images of {teacher.preprocess.channels} channel, the student of "
                f"{setting.preprocess.channels}",
                wanted="as many, or a student that is content with grey",
                do="choose another teacher",
            )
        self._own = _own_classes(teacher, setting.labels) if how.weight else np.arange(len(teacher.labels))
        network = build(teacher.spec)
        load_tensors(network, teacher.tensors)
        self._teacher = network.to(setting.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._taps, self._projections = _taps(setting.network, self._teacher, how.features)
        self._projections.to(setting.device)
        self._kept: Tensor | None = None
        size = len(setting.batches) * len(self._own) * 4
        self._keeps = setting.batches.fixed_views and not how.features and size <= CACHE_BYTES

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The 1x1 convolutions from the student's maps to the teacher's, by reduction."""
        return {"projections": self._projections} if self._how.features else {}

    @property
    def identity(self) -> Any:
        """The teacher and what is learned from it."""
        return {"teacher": self._digest, "distillation": msgspec.to_builtins(self._how)}

    @property
    def told(self) -> Mapping[str, Any]:
        """The same, and the teacher's name."""
        return {"teacher": {"digest": self._digest, "name": self._name, **msgspec.to_builtins(self._how)}}

    def answering(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """One pass of the teacher, one of the student forward and back."""
        setting, how = self._setting, self._how
        logits, maps = self._ask_teacher(batch)
        with lower_precision(setting.dtype, setting.device):
            own, own_maps = _with_maps(setting.network, batch.images, [mine for mine, _ in self._taps])
            matched = [project(seen) for project, seen in zip(self._projections, own_maps, strict=True)]
        loss = (1 - how.weight) * self._task.loss(own, batch.targets, setting.recipe.label_smoothing)
        if how.weight:
            heat = how.temperature
            soft = F.kl_div(
                F.log_softmax(own.float() / heat, dim=1),
                F.log_softmax(logits / heat, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            # Gradients of softened answers shrink with the square of the temperature (Hinton et al. section 2).
            loss = loss + how.weight * heat**2 * soft
        for mine, theirs in zip(matched, maps, strict=True):
            theirs = F.adaptive_avg_pool2d(theirs.float(), mine.shape[-2:])
            loss = loss + how.feature_weight * F.mse_loss(mine.float(), theirs) / theirs.var().clamp_min(1e-12)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _ask_teacher(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The teacher's logits for the student's classes (B, K), float32, and its maps."""
        if self._keeps:
            if self._kept is None:
                self._kept = self._all_answers()
            return self._kept[torch.from_numpy(batch.which)].to(self._setting.device, non_blocking=True), []
        return self._answer(batch.images)

    def _all_answers(self) -> Tensor:
        """Logits (N, K) of the training images as they are. Made in the order of the images, at the first step of each
        process, so that a run that goes on has the same bits."""
        parts = []
        for pixels in self._setting.batches.in_order(CACHE_BATCH):
            images = normalise(pixels.to(self._setting.device), self._setting.preprocess)
            parts.append(self._answer(images)[0].cpu())
        return torch.cat(parts)

    def _answer(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        setting = self._setting
        with torch.no_grad(), lower_precision(setting.dtype, setting.device):
            seen = _as_the_teacher_sees(images, ours=setting.preprocess, theirs=self._theirs)
            logits, maps = _with_maps(self._teacher, seen, [theirs for _, theirs in self._taps])
        return logits.float()[:, torch.from_numpy(self._own).to(logits.device)], maps


def _own_classes(teacher: Bundle, labels: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the student's classes stand among the teacher's (K,)."""
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


def _taps(
    student: Network, teacher: Network, reductions: tuple[int, ...]
) -> tuple[list[tuple[int, int]], nn.ModuleList]:
    """For each reduction the rows whose maps are matched, of the student and of the teacher, and what joins them."""
    if not reductions:
        return [], nn.ModuleList()
    try:
        pairs = list(zip(*(levels(n.spec, strides=reductions) for n in (student, teacher)), strict=True))
    except SpecError as error:
        raise SpecError(
            error.got, wanted=error.wanted, do="match maps at reductions that both networks have"
        ) from error
    taps = [(mine.row, theirs.row) for mine, theirs in pairs]
    return taps, nn.ModuleList(nn.Conv2d(mine.channels, theirs.channels, 1) for mine, theirs in pairs)


def _with_maps(network: Network, images: Tensor, rows: Iterable[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the outputs of some rows. No hooks: what is hung on the network would be copied with it."""
    wanted, maps = list(rows), {}
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
