"""What a fit is asked for, what it considers, and what it tells afterwards. No torch."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..bench import Latency
from ..errors import UsageError
from ..records import Environment, Gate, Precision

__all__ = [
    "Accuracy",
    "Budget",
    "Candidate",
    "Delivered",
    "FitReport",
    "LatencyEstimate",
    "Mistake",
    "RoundResult",
    "Status",
    "TrainingRow",
]

# What became of a candidate, in the order in which it can happen.
Status = Literal[
    "too many mult-adds",
    "too large",
    "too slow",
    "not measured",  # by the device whose latencies count
    "fits, not tried",  # others promised more in the time there was
    "dropped",  # trained for a while, and others were better
    "refused by a gate",
    "chosen",
]


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What the model must keep to.

    Raises:
        UsageError: no limit at all, or one that is not positive.
    """

    latency_ms: float | None = None  # one image, on this machine
    size_mb: float | None = None  # of the model file, 10^6 bytes
    mult_adds_m: float | None = None  # 10^6, per image
    threads: int = 1

    def __post_init__(self) -> None:
        limits = {"latency_ms": self.latency_ms, "size_mb": self.size_mb, "mult_adds_m": self.mult_adds_m}
        if all(limit is None for limit in limits.values()):
            raise UsageError("a budget without a limit", wanted="at least one", do="give --latency-ms, say")
        for name, limit in {**limits, "threads": self.threads}.items():
            if limit is not None and not limit > 0:
                raise UsageError(f"{name} is {limit}", wanted="above 0", do=f"correct {name}")


class LatencyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long a candidate takes for one image, in ms; a budget is compared with `high_ms`."""

    median_ms: float
    low_ms: float
    high_ms: float
    how: Literal["measured", "predicted"]


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a short training of a candidate came to."""

    round: int  # from 1
    seconds: float  # of training, this round
    top1: float  # on the validation images, in [0, 1]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One network and precision that was considered."""

    name: str  # of the spec; resolves with `arch.find`
    family: str  # its row in the catalogue
    alpha: float
    resolution: int
    precision: Precision
    parameters: int
    mult_adds: int
    size_mb: float  # of its exported file; estimated from the tensors until exported
    latency: LatencyEstimate | None
    status: Status
    why: str  # one sentence, with the numbers
    start: str | None = None  # whose weights it begins from, as `mobilenets import` takes them; None: nobody's
    rounds: tuple[RoundResult, ...] = ()


class TrainingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One validation during the final training."""

    seconds: float
    epoch: float
    train_loss: float
    eval_loss: float
    eval_top1: float  # per cent
    lr: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on the exported file, on images that chose nothing where the data has a test split."""

    split: Literal["val", "test"]
    n: int
    top1: float
    top1_low: float  # 95 %, Wilson
    top1_high: float
    top5: float | None
    calibration_error: float
    per_class: tuple[float | None, ...]  # in [0, 1], None for a class without images
    confusion: tuple[tuple[int, ...], ...]  # rows are the truth


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that passed its gates."""

    path: str  # relative to the report
    precision: Precision
    size_mb: float
    latency: Latency
    accuracy: Accuracy
    gates: tuple[Gate, ...]


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """A test image that the model got wrong, surest first."""

    image: str  # its name in the data
    truth: str
    said: str
    probability: float  # of what it said


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a fit found out: `report.json`. The page shows the same numbers."""

    command: str
    data: str  # the data set's name
    data_digest: str
    labels: tuple[str, ...]
    images: dict[str, int]  # per split
    problems: tuple[str, ...]  # what was wrong with images, and what was done about each
    budget: Budget
    asked_seconds: float
    took_seconds: float
    candidates: tuple[Candidate, ...]
    chosen: str  # name of the spec
    delivered: tuple[Delivered, ...]  # the recommended one first
    not_delivered: tuple[str, ...]  # further precisions that were tried, and what kept them out
    training: tuple[TrainingRow, ...]
    training_seconds: float
    recipe: dict[str, Any]  # the fields of a `train.Recipe`
    mistakes: tuple[Mistake, ...]
    latency_note: str  # how latencies were found: how many measured, predicted, the prediction's error
    device: Environment | None = None  # where all latencies are from, if not from this machine
    environment: Environment
