"""An objective that learns from a teacher: its softened answers, and its feature maps where that is wished.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; feature maps as in Romero et
al., "FitNets", 2015. The teacher sees the very images that the student sees, distorted and mixed alike (Beyer et al.
2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import msgspec
import torch.nn.functional as F
from torch import Tensor, nn

from ..bundle import Bundle
from ..errors import RecipeError, SpecError
from ..nets import Network, levels
from ..tasks import TASKS
from .machine import lower_precision
from .objective import Batch, MakeObjective, Setting
from .teacher import Teacher, own_classes, with_maps

__all__ = ["Distil", "Distillation", "answers_loss", "check_teacher", "distil"]


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
        own_classes(teacher, labels)


def answers_loss(own: Tensor, said: Tensor, *, temperature: float) -> Tensor:
    """How far a student's logits (B, K) are from the teacher's, both softened: T^2 KL(teacher, student), in nats.

    Gradients of softened answers shrink with the square of the temperature, which the factor makes good (Hinton et al.
    2015, section 2).
    """
    soft = F.kl_div(
        F.log_softmax(own.float() / temperature, dim=1),
        F.log_softmax(said / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


@final
class Distil:
    """The task's loss, the teacher's answers and the teacher's maps, weighed."""

    def __init__(self, setting: Setting, teacher: Bundle, how: Distillation) -> None:
        self._setting, self._how = setting, how
        self._task = TASKS["classify"]
        self._teacher = Teacher(setting, teacher, answers=how.weight > 0)
        self._taps, self._projections = _taps(setting.network, self._teacher.network, how.features)
        self._projections.to(setting.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The 1x1 convolutions from the student's maps to the teacher's, by reduction."""
        return {"projections": self._projections} if self._how.features else {}

    @property
    def identity(self) -> Any:
        """The teacher and what is learned from it."""
        return {"teacher": self._teacher.digest, "distillation": msgspec.to_builtins(self._how)}

    @property
    def told(self) -> Mapping[str, Any]:
        """The same, and the teacher's name."""
        teacher = self._teacher
        return {"teacher": {"digest": teacher.digest, "name": teacher.name, **msgspec.to_builtins(self._how)}}

    def answering(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """One pass of the teacher, one of the student forward and back."""
        setting, how = self._setting, self._how
        if self._taps:
            said, maps = self._teacher.answer(batch.images, [theirs for _, theirs in self._taps])
        else:
            said, maps = self._teacher.logits(batch), []
        with lower_precision(setting.dtype, setting.device):
            own, own_maps = with_maps(setting.network, batch.images, [mine for mine, _ in self._taps])
            matched = [project(seen) for project, seen in zip(self._projections, own_maps, strict=True)]
        loss = (1 - how.weight) * self._task.loss(own, batch.targets, setting.recipe.label_smoothing)
        if how.weight:
            loss = loss + how.weight * answers_loss(own, said, temperature=how.temperature)
        for mine, theirs in zip(matched, maps, strict=True):
            theirs = F.adaptive_avg_pool2d(theirs.float(), mine.shape[-2:])
            loss = loss + how.feature_weight * F.mse_loss(mine.float(), theirs) / theirs.var().clamp_min(1e-12)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


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
