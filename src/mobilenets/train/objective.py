"""What is learned from a batch: the part of training that can be exchanged.

The loop owns order, schedule, optimizer, averaging, checkpoints and survival. An objective owns the step from a batch
to gradients: plain cross-entropy here, a teacher's answers in `distil`, several widths at once elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nets import Network
from ..records import Preprocess, Task
from ..tasks import TASKS, Targets
from .loader import Batches
from .loss_scale import LossScale, backward
from .machine import lower_precision
from .recipe import Recipe

__all__ = ["Batch", "CrossEntropy", "MakeObjective", "Objective", "Setting"]


@dataclass(frozen=True)
class Batch:
    """Training images as they are learned from."""

    images: Tensor  # float32 (B, C, R, R), normalised and augmented, on the device, channels-last in memory
    targets: Targets
    which: NDArray[np.int64]  # (B,): indices of these images in the training split
    done: float  # the part of the run that lies before them, in [0, 1]


@dataclass(frozen=True)
class Setting:
    """What an objective is made of. Everything belongs to the loop; an objective reads it and keeps what it needs."""

    network: Network  # the one that is trained, on the device; the objective calls it, the loop changes its weights
    recipe: Recipe
    labels: tuple[str, ...]
    preprocess: Preprocess  # what `Batch.images` were normalised with
    batches: Batches
    device: torch.device
    dtype: torch.dtype  # of the forward pass: `with lower_precision(setting.dtype, setting.device)`
    task: Task = "classify"
    trial: bool = False  # steps are only timed, and what they learn is thrown away: nothing is made for the whole run
    scale: LossScale | None = None  # of losses, where the forward pass is in float16

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to `.grad`, scaled where they would vanish otherwise; the loop takes it back."""
        backward(loss, self.scale)


class Objective(Protocol):
    """What the loop asks of an objective. One is made for each run, by a `MakeObjective`.

    The rules that keep a resumed run bit-equal to one that was never stopped:

    - `learn` depends on the batch, the step, the weights and `modules` only. Random numbers come from torch's global
      generator, which the loop seeds before each call from seed and step, or from numpy seeded with the step.
    - What changes from step to step lives in parameters or buffers of `modules`: they are written into every
      checkpoint and read back on resume, and after a roll-back. Nothing else may be carried from call to call.
    - A network that does not change (a teacher) is not among `modules`; its digest is in `identity`.
    """

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What it holds beside the network, by name; parameters that want a gradient join the optimizer.

        A `nets.Network` among them is a part of the result: it is averaged as the network is, and the bundle holds its
        trained numbers in `own`, under that name.
        """

    @property
    def identity(self) -> Any:
        """JSON-like: what changes the result and is not in the recipe. Resuming with another one is refused."""

    @property
    def told(self) -> Mapping[str, Any]:
        """JSON-like: for the history of the bundle."""

    def answering(self, network: nn.Module) -> nn.Module:
        """What answers the validation images for the weights of `network`, in evaluation mode: itself, where it is
        used as it is; a twin that rounds as an int8 file will, where that is what is trained for."""

    def eligible(self, done: float) -> bool:
        """Whether the weights after this part of the run, in [0, 1], may be its best. Those at its end must be."""

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """Add the gradients of the loss on `batch` to `.grad` of all parameters, and return the loss.

        The network is in training mode (frozen rows in evaluation mode) and gradients are zero before the call. It
        may run the network and `setting.backward` several times. The loss comes back detached, a scalar on the device:
        nothing here may wait for the device.

        Args:
            batch: the images of this process; the loss is their mean.
            step: how many steps came before it.
        """


MakeObjective: TypeAlias = Callable[[Setting], Objective]


@final
class CrossEntropy:
    """The task's own loss of the network's answers."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._task = TASKS[setting.task]

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """None."""
        return {}

    @property
    def identity(self) -> Any:
        """The recipe says it all."""
        return None

    @property
    def told(self) -> Mapping[str, Any]:
        """Nothing beyond the recipe."""
        return {}

    def answering(self, network: nn.Module) -> nn.Module:
        """Itself."""
        return network

    def eligible(self, done: float) -> bool:
        """All of them."""
        return True

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """One pass forward and back."""
        setting = self._setting
        with lower_precision(setting.dtype, setting.device):
            logits = setting.network(batch.images)
        loss = self._task.loss(logits, batch.targets, setting.recipe.label_smoothing)
        setting.backward(loss)
        return loss.detach()
