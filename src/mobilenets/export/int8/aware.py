"""Quantisation-aware training: an objective that lets any other one learn through the roundings of the int8 file.

Jacob et al. 2018 (arXiv:1712.05877, section 3); Krishnamoorthi 2018 (arXiv:1806.08342, section 3.2). Ranges are
averages of the least and the greatest number of each batch: of all batches so far, and moving ones from the hundredth
on. LSQ (Esser et al. 2020, arXiv:1902.08153) learns steps by gradients, for two to four bits above all; with eight bits
averages lose little, they need neither a rate nor a scale of gradients of their own, and they suit hard-swish, whose
bytes (`ranges.swish_scale`) come in whole numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, final

from torch import Tensor, nn

from ...bundle import Bundle
from ...errors import UsageError
from ...nets import Network, build
from ...train import Batch, CrossEntropy, MakeObjective, Setting
from ...train.elastic import Elastic
from .fake import Grid, twin_of
from .ranges import Ranges
from .trained import RANGES_KEY

__all__ = ["Int8Aware", "check_trainable", "int8_aware"]

SETTLES: Final = (
    100  # steps between two choices of how many steps a filter's greatest weight is; each reads all weights
)


def check_trainable(bundle: Bundle, start: Ranges) -> None:
    """Whether a network can be trained for int8, told before anything is trained.

    Args:
        bundle: the network.
        start: from `starting_ranges` of it.

    Raises:
        SpecError: it has parts that an int8 file does not compute in bytes; see `fake.twin_of`.
    """
    network = build(bundle.spec)
    twin_of(network, Grid(start, network), bundle.preprocess)


def int8_aware(start: Ranges, objective: MakeObjective = CrossEntropy) -> MakeObjective:
    """Makes the objective of runs that learn what `objective` asks, as the int8 file will compute it.

    Args:
        start: ranges to begin with, from `starting_ranges` of the bundle that training starts from.
        objective: what is learned: the labels, or a teacher's answers (`train.distil`). It must call the network it is
            given as a whole, or by its rows and head.
    """
    return lambda setting: Int8Aware(setting, start, objective)


@final
class Int8Aware:
    """Another objective, on the twin of the network that rounds as its int8 file does.

    Raises:
        SpecError: the network has parts that an int8 file does not compute in bytes; see `fake.twin_of`.
        UsageError: the recipe sets norms anew for each validation, with which no range would be right; or the other
            objective trains several widths.
    """

    def __init__(self, setting: Setting, start: Ranges, objective: MakeObjective) -> None:
        if setting.recipe.recalibrate != 0:
            raise UsageError(
                f"recalibrate = {setting.recipe.recalibrate}",
                wanted="0: norms keep their statistics, for ranges belong to them",
                do="set recalibrate=0",
            )
        self._preprocess = setting.preprocess
        self._grid = Grid(start, setting.network).to(setting.device)
        self._twin = twin_of(setting.network, self._grid, self._preprocess).train()
        self._inner = objective(replace(setting, network=self._twin))
        if isinstance(self._inner, Elastic):
            raise UsageError(
                "elastic training for int8",
                wanted="one width: each has ranges of its own",
                do="slice the elastic network, then train the slice for int8",
            )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The ranges and steps, and what the other objective holds."""
        return {"int8": self._grid, **self._inner.modules}

    @property
    def identity(self) -> Any:
        """That it is this; ranges to begin with follow from the bundle and the images."""
        return {"int8": sorted(self._grid.names), "learns": self._inner.identity}

    @property
    def told(self) -> Mapping[str, Any]:
        """The ranges, where `trained_ranges` looks for them, and what the other objective tells."""
        ranges = {name: [each.low, each.high] for name, each in self._grid.ranges().items()}
        return {RANGES_KEY: ranges, **self._inner.told}

    def answering(self, network: nn.Module) -> nn.Module:
        """The twin of `network`, with steps that suit its weights, as the file will have them."""
        assert isinstance(network, Network)  # nothing else is trained here
        grid = copy.deepcopy(self._grid)
        twin = twin_of(network, grid, self._preprocess)
        grid.settle(twin)
        return twin.eval()

    def eligible(self, done: float) -> bool:
        """As the other objective says."""
        return self._inner.eligible(done)

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        """What the other objective does, through the roundings."""
        self._grid.at(step)
        if step % SETTLES == 0:
            self._grid.settle(self._twin)
        return self._inner.learn(batch, step=step)
