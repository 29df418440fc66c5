"""An objective that learns from a teacher: its softened answers, and where that is wished its maps and its embedding.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; feature maps as in Romero et
al., "FitNets", 2015 (arXiv:1412.6550). The teacher sees the very images that the student sees, distorted and mixed
alike (Beyer et al. 2022).

The embedding is what the classifier reads: the pooled map (V1, V2), or the hidden layer behind it (V3, V4). Its
direction is matched, as Sanh et al. do with hidden states ("DistilBERT", 2019, arXiv:1910.01108, section 2): embeddings
are compared by angle wherever they are used. Where widths differ the student's goes through a linear layer that is
learned beside it and left behind, as FitNets' regressor is (section 2.2). No label is asked for, so the teacher may
know other classes, or be of another task.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, final

import msgspec
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch import ArchSpec
from ..bundle import Bundle
from ..errors import RecipeError, SpecError
from ..nets import Network, levels
from ..records import Task
from ..tasks import TASKS
from .machine import lower_precision
from .objective import Batch, MakeObjective, Setting
from .teacher import Teacher, look, own_classes

__all__ = [
    "Distil",
    "Distillation",
    "EmbeddingDistance",
    "check_teacher",
    "distil",
    "embedding_loss",
    "embedding_width",
]

# One minus the cosine; or the mean squared difference, as a share of the teacher's variance.
EmbeddingDistance: TypeAlias = Literal["cosine", "squared"]
LATER_FIELDS = MappingProxyType({"embedding": None, "embedding_weight": 1.0})  # not told at these values: see `told`


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned from the teacher, and how much.

    Raises:
        RecipeError: naming the field that cannot be.
    """

    temperature: float = 4.0  # both networks' logits are divided by it
    weight: float = 0.9  # of the teacher's answers; the labels have the rest
    features: tuple[int, ...] = ()  # reductions whose last maps are matched: input pixels per pixel of the map
    feature_weight: float = 1.0  # of each such map; its loss is 1 for a map that explains nothing of the teacher's
    embedding: EmbeddingDistance | None = None  # how far what the classifier reads is from the teacher's; None: any
    embedding_weight: float = 1.0  # of that; its loss is 1 for an embedding that has nothing of the teacher's

    def __post_init__(self) -> None:
        for field, ok, wanted in (
            ("temperature", self.temperature > 0, "above 0"),
            ("weight", 0 <= self.weight <= 1, "in [0, 1]"),
            ("features", len(set(self.features)) == len(self.features), "each reduction once"),
            ("feature_weight", self.feature_weight >= 0, "at least 0"),
            ("embedding", self.embedding in (None, "cosine", "squared"), "cosine or squared, or null for none"),
            ("embedding_weight", self.embedding_weight > 0, "above 0; embedding null matches none"),
            (
                "weight",
                self.weight > 0 or bool(self.features) or self.embedding is not None,
                "above 0, or features to match, or the embedding",
            ),
        ):
            if not ok:
                raise RecipeError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")

    @property
    def told(self) -> dict[str, Any]:
        """JSON-like, for identities and histories. Later fields only where they say something: older runs go on."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if LATER_FIELDS.get(name, ...) != value}


def distil(teacher: Bundle, how: Distillation | None = None) -> MakeObjective:
    """Makes the objective of runs that learn from `teacher`.

    The objective raises UsageError where the teacher's answers are wanted and it lacks a class of the data (it may have
    more, and in another order), is of another task or was never trained to tell classes apart, or where it wants more
    colours than the images have; and SpecError for a reduction at which one of the two has no map.
    """
    return lambda setting: Distil(setting, teacher, how or Distillation())


def check_teacher(teacher: Bundle, labels: tuple[str, ...], how: Distillation, *, task: Task = "classify") -> None:
    """Whether a teacher can answer for these classes, so that it is told before anything is written.

    Raises:
        UsageError: it lacks a class, is of another task, or was never trained to tell classes apart.
    """
    if how.weight:
        own_classes(teacher, labels, task=task)


def embedding_loss(own: Tensor, theirs: Tensor, *, distance: EmbeddingDistance) -> Tensor:
    """How far a student's embedding (B, D) is from the teacher's (B, D), mean over the images.

    Raises:
        RecipeError: there is no such distance.
    """
    own, theirs = own.float(), theirs.float()
    if distance == "cosine":
        return 1 - F.cosine_similarity(own, theirs, dim=1).mean()
    if distance == "squared":
        return F.mse_loss(own, theirs) / theirs.var().clamp_min(1e-12)
    raise RecipeError(f"embedding = {distance!r}", wanted="cosine or squared", do="correct embedding")


@final
class Distil:
    """The task's loss, the teacher's answers, its maps and its embedding, weighed."""

    def __init__(self, setting: Setting, teacher: Bundle, how: Distillation) -> None:
        self._setting, self._how = setting, how
        self._task = TASKS[setting.task]
        self._teacher = Teacher(setting, teacher, answers=how.weight > 0, embedding=how.embedding is not None)
        self._taps, self._projections = _taps(setting.network, self._teacher.network, how.features)
        self._projections.to(setting.device)
        widths = embedding_width(setting.network.spec), embedding_width(teacher.spec)
        joins = how.embedding is not None and widths[0] != widths[1]
        self._join = (nn.Linear(*widths) if joins else nn.Identity()).to(setting.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The 1x1 convolutions from the student's maps to the teacher's, and the linear layer between embeddings."""
        return {
            **({"projections": self._projections} if self._how.features else {}),
            **({"embedding": self._join} if isinstance(self._join, nn.Linear) else {}),
        }

    @property
    def identity(self) -> Any:
        """The teacher and what is learned from it."""
        return {"teacher": self._teacher.digest, "distillation": self._how.told}

    @property
    def told(self) -> Mapping[str, Any]:
        """The same, and the teacher's name."""
        teacher = self._teacher
        return {"teacher": {"digest": teacher.digest, "name": teacher.name, **self._how.told}}

    def answering(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def eligible(self, done: float) -> bool:
        """All of them."""
        return True

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """One pass of the teacher, one of the student forward and back."""
        setting, how = self._setting, self._how
        if self._taps:
            theirs = self._teacher.look(batch.images, [row for _, row in self._taps])
        else:
            theirs = self._teacher.seen(batch)
        embeds = how.embedding is not None
        with lower_precision(setting.dtype, setting.device):
            own = look(setting.network, batch.images, [row for row, _ in self._taps], embedding=embeds)
            matched = [project(seen) for project, seen in zip(self._projections, own.maps, strict=True)]
            joined = self._join(own.embedding)
        loss = (1 - how.weight) * self._task.loss(own.logits, batch.targets, setting.recipe.label_smoothing)
        if how.weight:
            loss = loss + how.weight * self._task.answers(own.logits, theirs.logits, how.temperature)
        for mine, map_ in zip(matched, theirs.maps, strict=True):
            wanted = F.adaptive_avg_pool2d(map_.float(), mine.shape[-2:])
            loss = loss + how.feature_weight * F.mse_loss(mine.float(), wanted) / wanted.var().clamp_min(1e-12)
        if how.embedding is not None:
            loss = loss + how.embedding_weight * embedding_loss(joined, theirs.embedding, distance=how.embedding)
        setting.backward(loss)
        return loss.detach()


def embedding_width(spec: ArchSpec) -> int:
    """How many numbers the classifier reads."""
    return spec.head.layers(spec.out_channels)[-1].in_channels


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
