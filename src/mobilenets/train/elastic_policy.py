"""Which widths and resolutions an elastic training is for, and what it spends on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..arch import ArchSpec
from ..arch.narrower import narrower, width_of
from ..errors import RecipeError, UsageError
from ..nets.nested import places_in

__all__ = ["ElasticPolicy", "check_policy", "with_policy"]


class ElasticPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which widths and resolutions one set of weights is trained for, and what each step spends on them.

    The widest learns alone first. Then a step costs, relative to one of the widest alone, about `largest` x (1 +
    `smallest` x the narrowest's cost + `between` x `middle` x the cost of a network in the middle), times what smaller
    images save.

    Raises:
        RecipeError: naming the field that cannot be.
    """

    narrowest: float  # width multipliers, as in names: 0.25 ...
    widest: float = 1.0
    inner: tuple[float, ...] | None = None  # the widths between that are drawn; None: any
    resolutions: tuple[int, ...] = ()  # pixels; each pass draws one; empty: the network's own
    # Part of the training, at its start, in which the widest alone learns, from all images.
    alone: float = 0.5
    between: int = 1  # inner widths in a step
    largest: float = 0.8  # share of the batch that the widest learns from; with it a run costs less than half of four
    smallest: float = 1.0  # share of those images that the narrowest learns from
    middle: float = 0.8  # likewise for each inner width
    # All narrower ones learn from the widest's answers, both softened, as from a teacher's (`distil`).
    distil: float = 0.9  # weight of its answers, labels have the rest; less where alone = 0, for it knows nothing yet
    temperature: float = 4.0
    # Each width of a list adds numbers of its own to the slice that it shares; widths of a range would be too many.
    own: bool = True

    def __post_init__(self) -> None:
        inner = () if self.inner is None else self.inner
        between = f"above {self.narrowest:g} and below {self.widest:g}"
        part = "above 0 and at most 1"
        for field, ok, wanted in (
            ("narrowest", 0 < self.narrowest < self.widest, f"above 0 and below widest = {self.widest:g}"),
            ("inner", all(self.narrowest < alpha < self.widest for alpha in inner), between),
            ("resolutions", all(side >= 1 for side in self.resolutions), "pixels, at least 1"),
            ("alone", 0 <= self.alone < 1, "in [0, 1): the others must learn too"),
            ("between", self.between >= 0, "at least 0"),
            ("largest", 0 < self.largest <= 1, part),
            ("smallest", 0 < self.smallest <= 1, part),
            ("middle", 0 < self.middle <= 1, part),
            ("distil", 0 <= self.distil <= 1, "in [0, 1]"),
            ("temperature", self.temperature > 0, "above 0"),
        ):
            if not ok:
                raise RecipeError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")


def with_policy(policy: ElasticPolicy, settings: Mapping[str, Any]) -> ElasticPolicy:
    """The policy with some fields replaced; values may be text.

    Raises:
        RecipeError: an unknown field, or a value that cannot be.
    """
    try:
        return msgspec.convert({**msgspec.to_builtins(policy), **settings}, ElasticPolicy, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RecipeError):
            raise error.__cause__ from None
        known = ", ".join(ElasticPolicy.__struct_fields__)
        raise RecipeError(f"not a policy: {error}", wanted=f"the fields {known}", do="correct that field") from None


def check_policy(spec: ArchSpec, policy: ElasticPolicy) -> None:
    """Whether a table can be trained by a policy.

    Raises:
        UsageError: it is not the widest of the range, or not at the largest resolution.
        SpecError: the narrowest width cannot be, or does not nest.
    """
    own = width_of(spec)
    if policy.widest != own:
        raise UsageError(
            f"{spec.name} has width {own:g}, and the policy's widest is {policy.widest:g}",
            wanted="the widest network of the range: it holds the weights of all others",
            do=f"train a table of width {policy.widest:g}, or set widest to {own:g}",
        )
    if policy.resolutions and max(policy.resolutions) != spec.resolution:
        raise UsageError(
            f"{spec.name} is trained at {spec.resolution} pixels, and the largest resolution is "
            f"{max(policy.resolutions)}",
            wanted="the same: images are made at the network's resolution and shrunk to the others",
            do=f"set the resolution to {max(policy.resolutions)}",
        )
    places_in(spec, narrower(spec, policy.narrowest))
