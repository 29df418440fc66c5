"""What is measured of a bundle, and what follows from it. Shares are in [0, 1]."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..fit.records import Accuracy
from ..records import Environment
from ..train import Row

__all__ = ["Cause", "Diagnosis", "Finding", "Inputs", "Measured", "RowHealth", "TimeSplit"]

Cause = Literal[
    "rate too high",
    "trained too short",
    "learned by heart",
    "network too small",
    "head too small",
    "wrong normalisation",
    "stale norms",
    "dead channels",
    "uneven gradients",
    "rare classes",
    "classes taken for each other",
    "wrong confidence",
    "waits for data",
]


class RowHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, or the head, on real images."""

    name: str  # "row 3", "head"
    kind: str  # "bottleneck", "classifier" ...
    out: int  # channels of its output
    channels: int  # of all its layers together
    dead: int  # of these, how many say the same everywhere on every image
    low: float  # of its output
    high: float
    deviation: float  # of its output
    gradient: float  # norm, of one training batch
    weights: float  # norm


class TimeSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a training step goes: medians over `steps`, in milliseconds."""

    steps: int
    batch_size: int
    data_ms: float  # waiting for the next batch
    forward_ms: float
    backward_ms: float
    optimizer_ms: float

    @property
    def total_ms(self) -> float:
        """A step."""
        return self.data_ms + self.forward_ms + self.backward_ms + self.optimizer_ms


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the first row sees, and whether it would rather see something else."""

    n: int
    mean: float  # of normalised pixels
    deviation: float
    top1: float  # on these n images, fed as the bundle says
    otherwise: dict[str, float]  # accuracy on the same images, fed in another usual way


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    model: str
    digest: str
    data: str
    labels: tuple[str, ...]
    accuracy: Accuracy
    balanced: float
    train_n: int
    train_top1: float  # on training images without augmentation
    train_counts: tuple[int, ...]  # images of each class
    batch_norm_top1: float | None  # on the images of `inputs`, with norms that use those images' own statistics
    inputs: Inputs
    rows: tuple[RowHealth, ...]
    head_width: int  # numbers from which the classifier tells its classes apart
    times: TimeSplit
    curve: tuple[Row, ...]  # of the training, where its folder is known
    rate_lowered_at: int | None  # the step at which training diverged
    environment: Environment


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A cause that the numbers speak for, and what can be done."""

    cause: Cause
    sure: Literal["likely", "possible"]
    evidence: str
    remedy: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    measured: Measured
    findings: tuple[Finding, ...]  # likely ones first
