"""What `doctor` says of a file: facts, findings, and how it answers when it is fed in other ways. Shares in [0, 1]."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..records import Environment, Format

__all__ = ["Checkup", "Fact", "Fed", "Feeding", "Finding", "Order", "Problem", "Shifted", "Weight"]

Problem = Literal[
    "changed file",
    "numbers that are not finite",
    "normalisation unlike its record",
    "labels unlike the outputs",
    "1001 labels",
    "labels missing",
    "softmax inside",
    "padding unlike its table",
    "mixed padding",
    "training mode",
    "activation in pieces",
    "norms not folded",
    "stray transposes",
    "pads outside convolutions",
    "dynamic shapes",
    "old opset",
    "operators of one runtime",
    "other provider",
    "planes in a format of pixels",
    "float weights",
    "one scale for all channels",
    "uncalibrated ranges",
    "zero points out of place",
    "saturated ranges",
    "sums beyond 16 bits",
    "float islands",
    "convolutions left in float",
    "fed wrongly",
    "labels shifted",
    "answers at chance",
]
# wrong: answers suffer. slow, large: time or bytes are lost. note: right as it is, but easily used wrongly.
Weight = Literal["wrong", "slow", "large", "note"]
Order = Literal["RGB", "BGR"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of a file that its numbers speak for, and what can be done."""

    problem: Problem
    weight: Weight
    evidence: str
    costs: str  # what it does, or what it costs
    remedy: str  # a command or a line of code where there is one
    nodes: tuple[str, ...] = ()  # all that the evidence is about; the text shows the first


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is neither good nor bad, and that whoever runs the file wants to know."""

    name: str
    value: str


class Fed(msgspec.Struct, frozen=True, kw_only=True):
    """One way to feed the images, and what came of it."""

    name: str
    order: Order
    mean: tuple[float, ...]  # of values in [0, 1], by colour and not by place
    std: tuple[float, ...]
    top1: float
    low: float  # 95 %, Wilson
    high: float
    p: float  # that a difference to the way it says comes by chance (McNemar, exact); 1 for that way itself
    best_p: float  # that the difference to the best way comes by chance


class Shifted(msgspec.Struct, frozen=True, kw_only=True):
    """The best way to feed the images if class k were the output k + shift."""

    shift: int
    way: str
    top1: float
    p: float  # that the difference to the best way without a shift comes by chance


class Feeding(msgspec.Struct, frozen=True, kw_only=True):
    """The same `n` labelled images, fed in several ways. The first way is how the file says, or is said, to be fed."""

    data: str
    n: int
    classes: int  # in these images
    ways: tuple[Fed, ...]
    shifts: tuple[Shifted, ...]
    untried: dict[str, str]  # ways that the file cannot be fed in, each with the reason
    labels: str  # where the classes of the outputs come from


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    file: str
    format: Format
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...]  # what makes answers wrong first
    feeding: Feeding | None
    environment: Environment
