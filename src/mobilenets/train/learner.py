"""The weights of a run and what moves them: network, objective, optimizer, average. It knows steps and no time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..bundle import Tensors
from ..nets import Network, tensors_of
from ..records import Preprocess, Task
from ..tasks import Targets
from .augment import resized
from .judge import recalibrated
from .loader import Batches, Drawn, normalise
from .loss_scale import scale_for
from .machine import to_device
from .objective import Batch, MakeObjective, Setting
from .recipe import Recipe
from .team import Team
from .transfer import freeze_rows, frozen_rows, train_unfrozen
from .update import apply_recipe, follow, make_optimizer

__all__ = ["Learner"]


class Learner:
    """What a step changes.

    Args:
        network: with the weights to begin with, on the device; it is changed.
        batches: where batches come from.
        recipe: how.
        labels: class names, in the order of the targets.
        preprocess: how images are normalised.
        dtype: of the forward and backward pass.
        objective: makes what is learned from a batch.
        compiled: run the network through torch.compile where it is called as a whole.
        task: of the network.
        trial: steps are only timed; see `Setting`.
        team: whom gradients are averaged with.
    """

    def __init__(
        self,
        network: Network,
        batches: Batches,
        recipe: Recipe,
        *,
        labels: tuple[str, ...],
        preprocess: Preprocess,
        dtype: torch.dtype,
        objective: MakeObjective,
        team: Team,
        task: Task = "classify",
        compiled: bool = False,
        trial: bool = False,
    ) -> None:
        self._batches, self._recipe, self._preprocess = batches, recipe, preprocess
        self._network, self._dtype, self._team = network, dtype, team
        self._device = next(network.parameters()).device
        self._frozen = frozen_rows(network.spec, recipe.freeze)
        freeze_rows(network, self._frozen)
        weights = batches.class_weights(len(labels))
        self._class_weights = None if weights is None else torch.from_numpy(weights).to(self._device)
        apply_recipe(network, recipe, per_epoch=batches.per_epoch)
        self._averaged: Network = copy.deepcopy(network) if recipe.ema else network
        setting = Setting(
            network=network,
            recipe=recipe,
            labels=labels,
            preprocess=preprocess,
            batches=batches,
            device=self._device,
            dtype=dtype,
            task=task,
            trial=trial,
            scale=scale_for(dtype, self._device),
        )
        self._scale = setting.scale
        self.objective = objective(setting)
        beside = self.objective.modules
        self._parts = {
            name: (copy.deepcopy(module) if recipe.ema else module, module)
            for name, module in beside.items()
            if isinstance(module, Network)
        }
        self.optimizer = make_optimizer(network, recipe, beside=beside.values(), dtype=dtype)
        self._learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        # What a checkpoint holds; names of the objective's own modules cannot meet ours.
        self.modules: dict[str, nn.Module] = {"network": network}
        self.modules |= {"averaged": self._averaged} if self._averaged is not network else {}
        self.modules |= {f"objective.{name}": module for name, module in beside.items()}
        self.modules |= {} if self._scale is None else {"loss_scale": self._scale}
        if recipe.ema:
            self.modules |= {f"averaged_objective.{name}": averaged for name, (averaged, _) in self._parts.items()}
        team.spread(self.modules.values())
        self._compiled = compiled
        if compiled:
            network.compile(dynamic=False)  # in place: tensors keep their names, and copies are not compiled

    def step(self, drawn: Drawn, *, step: int, rate: float, done: float) -> Tensor:
        """Learn from a batch at a learning rate; the loss, on the device. `done`: see `Batch`."""
        # Random numbers of this step come from its number, so a resumed run draws what it would have drawn.
        # Processes see other images, so they draw other numbers for them.
        torch.manual_seed(self._recipe.seed * 1_000_003 + step + self._team.rank * 7_368_787)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        train_unfrozen(self._network, self._frozen)
        loss = self.objective.learn(self._batch(drawn, step=step, done=done), step=step)
        self._team.average_gradients(self._learned)
        if self._scale is not None:
            self._scale.down(self._learned)  # of all processes together: one that overflowed is everybody's
        if self._recipe.clip:
            nn.utils.clip_grad_norm_(self._learned, self._recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._averaged is not self._network:
            for averaged, current in ((self._averaged, self._network), *self._parts.values()):
                follow(averaged, current, self._recipe, step=step)
        return loss

    def state_sum(self) -> Tensor:
        """The sum of all weights and statistics: not finite if one of them is not.

        Activations may hide NaN weights from the loss, and training does not read running statistics.
        """
        parts = [*self._network.parameters(), *(b for b in self._network.buffers() if b.is_floating_point())]
        parts += [parameter for _, part in self._parts.values() for parameter in part.parameters()]
        return torch.stack([part.detach().float().sum() for part in parts]).sum()

    def judged(self, *, step: int) -> nn.Module:
        """The network as it is validated and delivered: the averaged one, with norms set anew where that is wished.

        `step`: how many were made.

        It is made from the same batches each time, and of a copy: when a run validates depends on the clock, and what
        is learned may not.
        """
        self._team.average_statistics(self.modules.values())
        batches = self._recipe.recalibration_for(step, per_epoch=self._batches.per_epoch)
        if not batches:
            # Batches of other sizes in evaluation mode would be compiled anew; a copy is not compiled.
            judges_itself = self._compiled and self._averaged is self._network
            return copy.deepcopy(self._network) if judges_itself else self._averaged
        drawn = itertools.islice(self._batches.epoch(0), batches)
        images = (self._images(batch, step=number) for number, batch in enumerate(drawn))
        made = recalibrated(self._averaged, images, device=self._device, dtype=self._dtype)
        self._team.average_statistics([made])
        return made

    def own(self) -> Mapping[str, Tensors]:
        """The trained numbers, averaged, of the parts that the objective adds to the network, by their names."""
        kept = {}
        for name, (averaged, _) in self._parts.items():
            trained, tensors = dict(averaged.named_parameters()), tensors_of(averaged)
            kept[name] = {inner: tensor for inner, tensor in tensors.items() if inner in trained}
        return kept

    def _batch(self, drawn: Drawn, *, step: int, done: float) -> Batch:
        """On the device, normalised and augmented."""
        images = self._images(drawn, step=step)
        if self._recipe.small_side < 1 and done < self._recipe.small_until:
            images = resized(images, max(1, round(self._recipe.small_side * images.shape[-1])))
        classes = to_device(drawn.targets, self._device)
        mixed = self._batches.mix(images, classes, step=step)
        if mixed is None:
            return Batch(images, Targets(classes, weights=self._class_weights), drawn.which, done)
        images, others, share = mixed
        return Batch(images, Targets(classes, others, share, weights=self._class_weights), drawn.which, done)

    def _images(self, drawn: Drawn, *, step: int) -> Tensor:
        pixels = to_device(drawn.pixels, self._device)
        return self._batches.distort(normalise(pixels, self._preprocess), step=step)
