"""`Recipe`: how a network is trained, as data. No paths, no devices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import RecipeError
from ..files import digest_of

__all__ = ["Optimizer", "Precision", "Recipe", "read_recipe", "with_settings"]

Optimizer = Literal["sgd", "adamw", "rmsprop"]
Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every choice that changes what is learned. The defaults train small networks well in minutes.

    Exactly one of `epochs` and `seconds` is set; the schedule runs from the first step to the last of either.

    Raises:
        RecipeError: naming the field that cannot be.
    """

    epochs: float | None = None
    seconds: float | None = None  # wall time, validation included
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    lr: float = 0.4  # for a batch of 256; scaled linearly with the batch (Goyal et al. 2017)
    momentum: float = 0.9
    weight_decay: float = 5e-4  # none on norms, biases and depthwise filters (V1 section 3.2)
    schedule: Schedule = "cosine"
    warmup: float = 0.15  # of the whole run, linear from 0
    label_smoothing: float = 0.1
    ema: float = 0.1  # weights are averaged over about the last tenth of the steps made so far; 0: not averaged
    norm_momentum: float = 0.1  # torch's convention; papers' values suit runs of 10^5 steps and more
    clip: float = 2.0  # greatest gradient norm; 0: not clipped
    dropout: float | None = None  # None: the spec's
    mirror: bool = True  # flip left-right half of the time
    crop_padding: float = 0.125  # same-sized small images: shift by up to this part of the side
    crop_area: float = 0.35  # photos: the least part of the area that a random crop keeps (RandomResizedCrop)
    cutout: float = 0.0  # side of an erased square as a part of the image side (DeVries and Taylor 2017)
    rotate: float = 0.0  # degrees either way
    zoom: float = 0.0  # scale by up to this part either way
    precision: Precision = "auto"  # auto: bfloat16 where the processor multiplies it natively
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.seconds is None):
            raise RecipeError(
                f"epochs = {self.epochs} and seconds = {self.seconds}",
                wanted="exactly one of them",
                do="set epochs or seconds",
            )
        length = self.epochs if self.epochs is not None else self.seconds
        part = "in [0, 1)"
        for field, ok, wanted in (
            ("epochs" if self.seconds is None else "seconds", length is not None and length > 0, "above 0"),
            ("batch_size", self.batch_size >= 2, "at least 2, for batch norm needs a batch"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, part),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("warmup", 0 <= self.warmup < 1, part),
            ("label_smoothing", 0 <= self.label_smoothing < 1, part),
            ("ema", 0 <= self.ema < 1, part),
            ("norm_momentum", 0 < self.norm_momentum <= 1, "in (0, 1]"),
            ("clip", self.clip >= 0, "at least 0"),
            ("dropout", self.dropout is None or 0 <= self.dropout < 1, part),
            ("crop_padding", 0 <= self.crop_padding < 1, part),
            ("crop_area", 0 < self.crop_area <= 1, "in (0, 1]"),
            ("cutout", 0 <= self.cutout < 1, part),
            ("rotate", 0 <= self.rotate <= 180, "in [0, 180] degrees"),
            ("zoom", 0 <= self.zoom < 1, part),
        ):
            if not ok:
                raise RecipeError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")

    def rate(self, progress: float) -> float:
        """The factor on the learning rate at `progress` in [0, 1] of the run, in [0, 1].

        Raises:
            RecipeError: the schedule is unknown.
        """
        if progress < self.warmup:
            return progress / self.warmup
        rest = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * rest))
        if self.schedule == "linear":
            return 1 - rest
        if self.schedule == "constant":
            return 1.0
        raise RecipeError(f"schedule = {self.schedule!r}", wanted="cosine, linear or constant", do="correct schedule")

    @property
    def digest(self) -> str:
        """Names the recipe."""
        return digest_of(msgspec.to_builtins(self))


def with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """The recipe with some fields replaced, checked like one read from a file.

    Setting `epochs` takes `seconds` away, and the other way round.

    Raises:
        RecipeError: an unknown field, or a value that cannot be.
    """
    content = {**msgspec.to_builtins(recipe), **settings}
    for one, other in (("epochs", "seconds"), ("seconds", "epochs")):
        if settings.get(one) is not None and other not in settings:
            content[other] = None
    try:
        return msgspec.convert(content, Recipe, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RecipeError):
            raise error.__cause__ from None
        known = ", ".join(Recipe.__struct_fields__)
        raise RecipeError(f"not a recipe: {error}", wanted=f"the fields {known}", do="correct that field") from None


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML or JSON.

    Raises:
        RecipeError: unreadable, or not a recipe; names the field.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read {path}: {error}", wanted="YAML or JSON", do="check the file") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {type(content).__name__}", wanted="fields and values", do="write `epochs: 10`")
    start = Recipe(epochs=1.0)
    if "epochs" not in content and "seconds" not in content:
        raise RecipeError(f"{path} has neither epochs nor seconds", wanted="one of them", do="add `epochs: 10`")
    return with_settings(start, content)
