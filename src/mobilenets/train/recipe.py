"""`Recipe`: how a network is trained, as data. No paths, no devices. Those of the papers are in `recipes/`."""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from ..errors import RecipeError
from ..files import digest_of

__all__ = ["WEIGHTS_LR", "ClassWeights", "LrScaling", "Optimizer", "Precision", "Recipe", "Sampling", "Schedule"]

FREEZE = re.compile(r"none|backbone|[1-9]\d*|rows:[1-9]\d*")
Optimizer = Literal["sgd", "muon", "adamw", "rmsprop"]
Schedule = Literal["cosine", "linear", "constant", "step", "exponential"]
LrScaling = Literal["linear", "sqrt"]
ClassWeights = Literal["none", "inverse", "sqrt_inverse"]
Sampling = Literal["shuffled", "balanced"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
# From weights that know other images, for a batch of 256: more undoes what they know (docs/log.md, "The rate from
# weights").
WEIGHTS_LR = 0.04
RECALIBRATION = 4  # batches, where norms are set anew by themselves
FEW = 2  # where a quarter of an epoch is fewer
MOST_BEHIND = 0.11  # of the steps: running statistics that are of longer ago are not used; usually, in the first 1,000


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every choice that changes what is learned. The defaults train small networks well in minutes.

    Exactly one of `epochs` and `seconds` is set; the schedule runs from the first step to the last of either.

    Raises:
        RecipeError: naming the field that cannot be.
    """

    epochs: float | None = None
    seconds: float | None = None  # wall time, validation included
    batch_size: int = 128  # of all processes together
    # How weights move
    optimizer: Optimizer = "muon"  # SGD but for the convolutions that mix channels, see `muon.Muon`
    lr: float = 0.4  # for a batch of 256
    lr_scaling: LrScaling = "linear"  # with the batch (Goyal et al. 2017); "sqrt" suits AdamW (Malladi et al. 2022)
    momentum: float = 0.9  # AdamW: beta1
    square_decay: float | None = None  # of the average of squared gradients; None: 0.9 for RMSProp, 0.999 for AdamW
    eps: float | None = None  # added to its root, as torch does; None: 0.0316 for RMSProp, 1e-8 for AdamW
    weight_decay: float = 5e-4  # none on norms, biases and depthwise filters (V1 section 3.2)
    matrix_scale: float = 0.25  # Muon: the rate of matrices, as a part of that of all else
    matrix_decay: float = 0.03  # Muon: of matrices, decoupled (Loshchilov and Hutter 2019)
    clip: float = 2.0  # greatest gradient norm; 0: not clipped
    schedule: Schedule = "cosine"
    warmup: float = 0.15  # of the whole run, linear from 0
    decay: float = 0.1  # "step", "exponential": the factor each time
    decay_epochs: float = 2.5  # "exponential": a time is so many epochs, in stairs, as TF-slim does
    milestones: tuple[float, ...] = (0.5, 0.75)  # "step": shares of the whole run
    # What keeps it from learning by heart
    label_smoothing: float = 0.1
    dropout: float | None = None  # None: the spec's
    drop_path: float = 0.0  # stochastic depth (Huang et al. 2016): share of images for which the last row is left out
    # What stays of the weights it starts from
    freeze: str = "none"  # "backbone", a number of stages, or "rows:5", counted from the stem: they learn nothing
    layer_decay: float = 1.0  # factor on the rate for each row further from the head
    # Averages
    ema: float = 0.1  # weights are averaged over about the last tenth of the steps made so far; 0: not averaged
    ema_decay: float = 0.0  # and over at most 1 / (1 - this) steps; 0: no such bound
    norm_momentum: float | Literal["auto"] = 0.1  # torch's convention; "auto": see `norm_momentum_for`
    # Batches from which the averaged weights' norms are set anew for each validation; "auto": see `recalibration_for`
    recalibrate: int | Literal["auto"] = "auto"
    # Classes with many images and few
    class_weights: ClassWeights = "none"  # how much an image counts: by one over its class's images, or that one's root
    sampling: Sampling = "shuffled"  # "balanced": an epoch shows every class equally often
    # What is seen
    # Progressive resizing (Tan and Le 2021, "EfficientNetV2", section 4): smaller images cost less, and teach much
    small_side: float = 1.0  # the part of the side that images have in the beginning
    small_until: float = 0.5  # the share of the run from which they have all of it
    mirror: bool = True  # flip left-right every other time an image is seen
    crop_padding: float = 0.125  # same-sized small images: shift by up to this part of the side
    crop_area: float = 0.35  # photos: the least part of the area that a random crop keeps (RandomResizedCrop)
    randaugment: int = 0  # operations per image (Cubuk et al. 2020); 0: none
    randaugment_magnitude: float = 9.0  # of 10, as TensorFlow's Model Garden counts
    randaugment_probability: float = 0.5  # of each operation
    cutout: float = 0.0  # side of an erased square as a part of the image side (DeVries and Taylor 2017)
    erase: float = 0.0  # share of images of which a random rectangle is erased (Zhong et al. 2017)
    rotate: float = 0.0  # degrees either way
    zoom: float = 0.0  # scale by up to this part either way
    mixup: float = 0.0  # parameter of the beta distribution (Zhang et al. 2018); 0: never
    cutmix: float = 0.0  # likewise (Yun et al. 2019)
    mix_probability: float = 1.0  # of a batch to be mixed, where mixup or cutmix is on
    mix_switch: float = 0.5  # of cutmix, where both are on
    # The machine
    precision: Precision = "auto"  # bfloat16 where that is faster; float16 on GPUs that have nothing better
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.seconds is None):
            raise RecipeError(
                f"epochs = {self.epochs} and seconds = {self.seconds}",
                wanted="exactly one of them",
                do="set epochs or seconds",
            )
        length = self.epochs if self.epochs is not None else self.seconds
        momentum = 0.1 if self.norm_momentum == "auto" else self.norm_momentum
        recalibrate = 0 if self.recalibrate == "auto" else self.recalibrate
        part, share = "in [0, 1)", "in [0, 1]"
        for field, ok, wanted in (
            ("epochs" if self.seconds is None else "seconds", length is not None and length > 0, "above 0"),
            ("batch_size", self.batch_size >= 2, "at least 2, for batch norm needs a batch"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, part),
            ("square_decay", self.square_decay is None or 0 <= self.square_decay < 1, part),
            ("eps", self.eps is None or self.eps > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("matrix_scale", self.matrix_scale > 0, "above 0"),
            ("matrix_decay", self.matrix_decay >= 0, "at least 0"),
            ("clip", self.clip >= 0, "at least 0"),
            ("warmup", 0 <= self.warmup < 1, part),
            ("decay", 0 < self.decay <= 1, "in (0, 1]"),
            ("decay_epochs", self.decay_epochs > 0, "above 0"),
            ("milestones", all(0 < m < 1 for m in self.milestones), "shares of the run in (0, 1)"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, part),
            ("dropout", self.dropout is None or 0 <= self.dropout < 1, part),
            ("drop_path", 0 <= self.drop_path < 1, part),
            ("freeze", bool(FREEZE.fullmatch(self.freeze)), "none, backbone, a number of stages, or rows:5"),
            ("layer_decay", 0 < self.layer_decay <= 1, "in (0, 1]"),
            ("ema", 0 <= self.ema < 1, part),
            ("ema_decay", 0 <= self.ema_decay < 1, part),
            ("norm_momentum", 0 < momentum <= 1, 'in (0, 1] or "auto"'),
            ("recalibrate", recalibrate >= 0, 'at least 0, or "auto"'),
            ("small_side", 0 < self.small_side <= 1, "in (0, 1]"),
            ("small_until", 0 <= self.small_until <= 1, share),
            ("crop_padding", 0 <= self.crop_padding < 1, part),
            ("crop_area", 0 < self.crop_area <= 1, "in (0, 1]"),
            ("randaugment", self.randaugment >= 0, "at least 0"),
            ("randaugment_magnitude", self.randaugment_magnitude >= 0, "at least 0"),
            ("randaugment_probability", 0 <= self.randaugment_probability <= 1, share),
            ("cutout", 0 <= self.cutout < 1, part),
            ("erase", 0 <= self.erase <= 1, share),
            ("rotate", 0 <= self.rotate <= 180, "in [0, 180] degrees"),
            ("zoom", 0 <= self.zoom < 1, part),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
            ("mix_probability", 0 <= self.mix_probability <= 1, share),
            ("mix_switch", 0 <= self.mix_switch <= 1, share),
        ):
            if not ok:
                raise RecipeError(f"{field} = {getattr(self, field)}", wanted=wanted, do=f"correct {field}")

    @property
    def peak_lr(self) -> float:
        """The learning rate for this batch size, before the schedule.

        Raises:
            RecipeError: the scaling is unknown.
        """
        if self.lr_scaling == "linear":
            return self.lr * self.batch_size / 256
        if self.lr_scaling == "sqrt":
            return self.lr * math.sqrt(self.batch_size / 256)
        raise RecipeError(f"lr_scaling = {self.lr_scaling!r}", wanted="linear or sqrt", do="correct lr_scaling")

    def rate(self, progress: float, *, epoch: float = 0.0) -> float:
        """The factor on the learning rate, in [0, 1].

        Args:
            progress: share of the run that is done, in [0, 1].
            epoch: passes over the images that are done; only "exponential" asks for it.

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
        if self.schedule == "step":
            return self.decay ** sum(progress >= milestone for milestone in self.milestones)
        if self.schedule == "exponential":
            return self.decay ** math.floor(epoch / self.decay_epochs + 1e-9)
        known = "cosine, linear, constant, step or exponential"
        raise RecipeError(f"schedule = {self.schedule!r}", wanted=known, do="correct schedule")

    def norm_momentum_for(self, per_epoch: int) -> float:
        """The weight of the new batch in the norms' running statistics, for `per_epoch` steps an epoch.

        "auto" lets them remember a quarter of an epoch, but never fewer than 10 steps, and never more than a
        twentieth of the run. With the papers' batches that is close to their own values: 0.013 at V3's 4096 images
        (paper: 0.01), 0.0002 at V1's 64 (TF-slim: 0.0003). Their values in a run of some hundred steps would validate
        with statistics of the first, untrained weights.
        """
        if self.norm_momentum != "auto":
            return self.norm_momentum
        steps = 0.05 * self.epochs * per_epoch if self.epochs is not None else math.inf
        return 1 / max(10.0, min(per_epoch / 4, steps))

    def averaged_steps(self, step: int) -> float:
        """How many of the last steps weights are averaged over, after `step` steps.

        With 0.1 and an `ema_decay` of 0.9999 that is nearly TensorFlow's average with `num_updates`: its weight of the
        old average is min(0.9999, (1 + n) / (10 + n)).
        """
        steps = self.ema * step
        return min(steps, 1 / (1 - self.ema_decay)) if self.ema_decay else steps

    def recalibration_for(self, step: int, *, per_epoch: int) -> int:
        """Batches from which norms are set anew when it validates after `step` steps, for `per_epoch` steps an epoch.

        Running statistics, and their average beside the averaged weights, are of some steps ago. "auto" sets them anew
        while these are more than a ninth of all steps, from a quarter of an epoch or less: where weights still change
        fast, a network that has learned something can answer like one that has not (docs/log.md, 2026-11-30).
        """
        if self.recalibrate != "auto":
            return self.recalibrate
        behind = 1 / self.norm_momentum_for(per_epoch) + self.averaged_steps(step)
        return min(RECALIBRATION, max(FEW, per_epoch // 4)) if behind > MOST_BEHIND * step else 0

    @property
    def digest(self) -> str:
        """Names the recipe."""
        return digest_of(msgspec.to_builtins(self))
