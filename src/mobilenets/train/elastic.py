"""An objective that trains one set of weights for every width and resolution of a range.

From the sandwich rule and in-place distillation of universally slimmable networks (Yu and Huang 2019, arXiv:1903.05134,
sections 3.2 and 3.3): each step trains the widest network, the narrowest and some between, and the narrower ones learn
from what the widest says, softened as a teacher's answers are. There every step trains four widths, which costs as much
as training them one by one. Here it is three, the one between on a part of the batch and the cheaper the more often.
And the widest learns alone for the first half, as in delayed shrinking (arXiv:2407.06167, abstract), which shortens
progressive shrinking (Cai et al. 2020, arXiv:1908.09791, section 3): what narrow networks ask of the weights that they
share would hold it up where it learns most, and they have a better start and a teacher that knows something.

Weights that all share pull in as many directions. So each width of a list, but the widest, also has numbers of its own,
which are added to the leading slice and get the same gradient (`ElasticPolicy.own`). They cost no pass over images, and
a training that goes on from an elastic bundle goes on from them.

With a teacher (`distil`), its answers stand beside the labels for every width, weighed as for a network alone; what the
widest says keeps its share of the narrower ones' loss. Its embedding stands beside them all, for it says another thing:
each width's goes through the leading columns of one linear layer, as the classifier's are.

A narrow network is the leading slice of every tensor (`nets.nested`); batch norms use the statistics of the batch,
which are different for each width, and get their running statistics when a slice is taken (section 3.1 there).
Each pass draws a resolution of its own (as Yang et al. 2020, arXiv:1909.12978, section 3.2, for the narrow ones).

In a team (`team`) all processes draw the same widths, resolutions and shares, each of its part of the batch: so work is
even, and a gradient that is None is None everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, final

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_

from ..arch import ArchSpec, cost
from ..arch.narrower import distinct_widths, narrower
from ..bundle import Bundle, Tensors
from ..errors import RecipeError, UsageError
from ..nets import Network
from ..nets.nested import Place, hollow, places_in
from ..records import only_classifiers
from ..tasks import TASKS, Targets
from .augment import resized
from .distil import Distillation, embedding_loss, embedding_width
from .elastic_policy import ElasticPolicy, check_policy
from .machine import lower_precision
from .objective import Batch, MakeObjective, Setting
from .teacher import Seen, Teacher, look
from .update import apply_recipe

__all__ = ["Elastic", "Pass", "check_lesson", "elastic"]

ELASTIC = 3  # stream of random numbers beside those of the loader


def check_lesson(how: Distillation) -> None:
    """Whether all widths can learn this from a teacher.

    Raises:
        UsageError: its maps are to be matched.
    """
    if how.features:
        raise UsageError(
            f"maps are to be matched at {', '.join(map(str, how.features))} in an elastic training",
            wanted="the teacher's answers or embedding: each width has maps of another number of channels",
            do="give no reductions to --match, or match the maps of a slice, in a training of its own",
        )


@dataclass(frozen=True)
class Pass:
    """One width's part of a step."""

    alpha: float
    resolution: int
    images: slice  # of the batch


def elastic(
    policy: ElasticPolicy,
    *,
    own: Mapping[str, Tensors] = MappingProxyType({}),
    teacher: Bundle | None = None,
    how: Distillation | None = None,
) -> MakeObjective:
    """Makes the objective of each run that trains by `policy`.

    The objective raises UsageError for a network that is not the policy's widest, and SpecError for a table whose
    widths do not nest; and what `teacher.Teacher` and `check_lesson` raise.

    Args:
        policy: which widths and resolutions.
        own: what widths begin to add of their own, as a bundle holds it; a width that is not there begins at zero.
        teacher: a trained network whose answers or embedding all widths learn from.
        how: temperature and weight of its answers, and whether its embedding is matched.
    """
    return lambda setting: Elastic(setting, policy, own=own, teacher=teacher, how=how)


@final
class Elastic:
    """Several widths a step. The network of the setting is the widest one and holds all weights."""

    def __init__(
        self,
        setting: Setting,
        policy: ElasticPolicy,
        *,
        own: Mapping[str, Tensors] = MappingProxyType({}),
        teacher: Bundle | None = None,
        how: Distillation | None = None,
    ) -> None:
        spec = setting.network.spec
        check_policy(spec, policy)
        if setting.recipe.small_side < 1:
            raise RecipeError(
                f"small_side = {setting.recipe.small_side:g} in an elastic training",
                wanted="1: an elastic training draws its own resolutions",
                do="name resolutions instead",
            )
        _check_learns(setting.network)
        self._setting, self._policy, self._spec = setting, policy, spec
        only_classifiers(setting.task, what="elastic")
        self._task = TASKS["classify"]
        self._how = how or Distillation()
        check_lesson(self._how)
        self._teacher, self._join = None, None
        if teacher is not None:
            embeds = self._how.embedding is not None
            self._teacher = Teacher(setting, teacher, answers=self._how.weight > 0, embedding=embeds)
            widths = embedding_width(spec), embedding_width(teacher.spec)
            self._join = nn.Linear(*widths).to(setting.device) if embeds else None
        self._parameters = dict(setting.network.named_parameters())
        self._resolutions = tuple(sorted(set(policy.resolutions))) or (spec.resolution,)
        inner = policy.inner
        if inner is None:
            inner = distinct_widths(spec, policy.narrowest, policy.widest)[1:-1]
        self._inner = inner
        tables = {alpha: narrower(spec, alpha) for alpha in (policy.narrowest, *inner, policy.widest)}
        # A width that does not nest is told before the first step, not when it is drawn.
        self._slices = {alpha: _Slice(spec, table, setting) for alpha, table in tables.items()}
        listed = policy.own and policy.inner is not None
        narrow = [alpha for alpha in tables if alpha != policy.widest] if listed else []
        self._own = {alpha: _adding(tables[alpha], own.get(f"{alpha:g}", {}), setting.device) for alpha in narrow}
        self._added = {alpha: dict(added.named_parameters()) for alpha, added in self._own.items()}
        # As much is spent on each: the cheaper is drawn the more often. It also is the less like the widest.
        odds = np.array([1 / cost(tables[alpha]).mult_adds for alpha in inner])
        self._odds = odds / odds.sum()

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What each width adds of its own, by width, and the linear layer to the teacher's embedding."""
        own = {f"{alpha:g}": added for alpha, added in self._own.items()}
        return own if self._join is None else {**own, "embedding": self._join}

    @property
    def identity(self) -> Any:
        """The policy, and the teacher with what is learned from it."""
        policy = {"elastic": msgspec.to_builtins(self._policy)}
        if self._teacher is None:
            return policy
        return policy | {"teacher": self._teacher.digest, "distillation": self._how.told}

    @property
    def told(self) -> Mapping[str, Any]:
        """The policy: whoever slices the bundle asks its history for the range. And the teacher."""
        policy = {"elastic": msgspec.to_builtins(self._policy)}
        if self._teacher is None:
            return policy
        who = {"digest": self._teacher.digest, "name": self._teacher.name}
        return policy | {"teacher": who | self._how.told}

    def answering(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def eligible(self, done: float) -> bool:
        """None before the narrow ones learned: the best weights are those of all widths."""
        return done > self._policy.alone

    def passes(self, step: int, *, count: int, done: float) -> tuple[Pass, ...]:
        """What step `step` does with a batch of `count` images, widest first; the same whenever it is asked."""
        policy = self._policy
        rng = np.random.default_rng([self._setting.recipe.seed, ELASTIC, step])
        parts, seen = [(policy.widest, 1.0)], count
        if done >= policy.alone:
            parts += [*((alpha, policy.middle) for alpha in self._drawn(rng)), (policy.narrowest, policy.smallest)]
            seen = _images(policy.largest, count)
        made = []
        for alpha, part in parts:
            side = self._resolutions[int(rng.integers(len(self._resolutions)))]
            own = _images(part, seen)
            begin = int(rng.integers(seen - own + 1))
            made.append(Pass(alpha=alpha, resolution=side, images=slice(begin, begin + own)))
        return tuple(made)

    def _drawn(self, rng: np.random.Generator) -> list[float]:
        """The inner widths of a step, each at most once."""
        size = min(self._policy.between, len(self._inner))
        return rng.choice(self._inner, size=size, replace=False, p=self._odds).tolist() if size else []

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """Each pass forward and back, one after the other. The loss is the widest network's."""
        widest, *narrow = self.passes(step, count=len(batch.images), done=batch.done)
        images, embeds = self._images_of(widest, batch), self._join is not None
        if widest.resolution == self._spec.resolution:
            # Only here running statistics move: they are the bundle's.
            with lower_precision(self._setting.dtype, self._setting.device):
                seen = look(self._setting.network, images, embedding=embeds)
        else:
            seen = self._slices[widest.alpha].look(images, self._parameters, embedding=embeds)
        taught = self._ask_teacher(batch, widest)
        loss = self._lesson_loss(seen, batch.targets, taught, widest.images)
        loss = loss + self._embedding_loss(seen, taught, widest.images)
        self._setting.backward(loss)
        said, distil = seen.logits.detach().float(), self._policy.distil
        for one in narrow:
            inside, added = self._slices[one.alpha], self._added.get(one.alpha, {})
            lent = inside.lend(self._parameters, added=added)
            seen = inside.look(self._images_of(one, batch), lent, embedding=embeds)
            own = (1 - distil) * self._lesson_loss(seen, batch.targets, taught, one.images)
            if distil:
                answers = self._task.answers(seen.logits, said[one.images], self._policy.temperature)
                own = own + distil * answers
            own = own + self._embedding_loss(seen, taught, one.images)
            self._setting.backward(own)
            inside.add_gradients(lent, to=self._parameters, added=added)
        return loss.detach()

    def _images_of(self, one: Pass, batch: Batch) -> Tensor:
        return resized(batch.images[one.images], one.resolution)

    def _ask_teacher(self, batch: Batch, widest: Pass) -> Seen | None:
        """What the teacher makes of what the widest sees, in which all other passes lie.

        It sees the images at the network's resolution, whatever a pass makes of them.
        """
        if self._teacher is None:
            return None
        part = replace(batch, images=batch.images[widest.images], which=batch.which[widest.images])
        return self._teacher.seen(part)

    def _lesson_loss(self, seen: Seen, targets: Targets, taught: Seen | None, images: slice) -> Tensor:
        """The loss against the labels and, where there is a teacher, its answers."""
        how, labels = self._how, self._labels_loss(seen.logits, targets, images)
        if taught is None or not how.weight:
            return labels
        answers = self._task.answers(seen.logits, taught.logits[images], how.temperature)
        return (1 - how.weight) * labels + how.weight * answers

    def _embedding_loss(self, seen: Seen, taught: Seen | None, images: slice) -> Tensor:
        """How far the embedding is from the teacher's, weighed; 0 where it is not matched."""
        distance = self._how.embedding
        if taught is None or self._join is None or distance is None:
            return seen.logits.new_zeros(())
        with lower_precision(self._setting.dtype, self._setting.device):
            own = F.linear(seen.embedding, self._join.weight[:, : seen.embedding.shape[1]], self._join.bias)
        return self._how.embedding_weight * embedding_loss(own, taught.embedding[images], distance=distance)

    def _labels_loss(self, logits: Tensor, targets: Targets, images: slice) -> Tensor:
        own = replace(
            targets,
            classes=targets.classes[images],
            mixed=None if targets.mixed is None else targets.mixed[images],
            share=None if targets.share is None else targets.share[images],
        )
        return self._task.loss(logits, own, self._setting.recipe.label_smoothing)


class _Slice:
    """A narrow network that is run with the leading parts of the wide one's parameters, and batch statistics.

    The parts are copies that gradients end at: autograd through the slicing itself would make a gradient of the wide
    tensor's size, mostly zeros, for every pass.
    """

    def __init__(self, wide: ArchSpec, narrow: ArchSpec, setting: Setting) -> None:
        self._places: Mapping[str, Place] = places_in(wide, narrow)
        self._setting = setting
        self._network = hollow(narrow)
        replace_all_batch_norm_modules_(self._network)
        # What keeps the widest network from learning by heart would keep a narrower one from learning.
        whole = narrow.digest == wide.digest
        free = msgspec.structs.replace(setting.recipe, dropout=0.0, drop_path=0.0)
        apply_recipe(self._network, setting.recipe if whole else free)
        self._network.train()
        self._both = _Looking(self._network)

    def lend(self, parameters: Mapping[str, Tensor], *, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The leading parts with what is added to them, each a tensor of its own."""
        lent = {}
        for name, parameter in parameters.items():
            part = parameter.detach()[self._places[name]]
            layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
            part = part.clone(memory_format=layout)
            lent[name] = (part.add_(added[name].detach()) if name in added else part).requires_grad_()
        return lent

    def look(self, images: Tensor, parameters: Mapping[str, Tensor], *, embedding: bool) -> Seen:
        """What it makes of images, with these parameters."""
        named = {f"network.{name}": parameter for name, parameter in parameters.items()}
        with lower_precision(self._setting.dtype, self._setting.device):
            logits, vector = functional_call(self._both, named, (images, embedding), strict=True)
        return Seen(logits, vector, [])

    def add_gradients(
        self, lent: Mapping[str, Tensor], *, to: Mapping[str, nn.Parameter], added: Mapping[str, nn.Parameter]
    ) -> None:
        """Add the gradients of the parts to those of the parameters they were lent from, and of what was added."""
        for name, part in lent.items():
            if part.grad is None:
                continue
            parameter = to[name]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad[self._places[name]].add_(part.grad)
            if name in added:
                own = added[name]
                own.grad = part.grad if own.grad is None else own.grad.add_(part.grad)


def _adding(narrow: ArchSpec, begun: Tensors, device: torch.device) -> Network:
    """What a width adds to the weights that it shares, zero where nothing is `begun`. It is never run."""
    network = hollow(narrow).to_empty(device=device)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name in begun:
                tensor.copy_(torch.from_numpy(np.array(begun[name])))
            else:
                tensor.zero_()
    return network.to(memory_format=torch.channels_last)


class _Looking(nn.Module):
    """`look` as a module, for `functional_call`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, embedding: bool) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to logits (N, classes) and what the classifier reads (N, D)."""
        seen = look(self.network, images, embedding=embedding)
        return seen.logits, seen.embedding


def _images(share: float, count: int) -> int:
    """Images of a batch of `count`; a norm needs two."""
    return min(count, max(2, round(share * count)))


def _check_learns(network: Network) -> None:
    if frozen := [name for name, parameter in network.named_parameters() if not parameter.requires_grad]:
        raise UsageError(
            f"{frozen[0]} is frozen" + (f", and {len(frozen) - 1} more" if len(frozen) > 1 else ""),
            wanted="a network that learns as a whole: frozen norms would have the statistics of one width only",
            do="freeze nothing, or train without elastic",
        )
