"""The parity gate: an exported file must answer like the torch network it came from, on real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import GateError, UsageError
from ..metrics import mean_average_precision, top_k_accuracy
from ..records import Gate, Precision, Task

__all__ = ["JUDGES", "SPEEDUP", "GateImages", "Judge", "Limits", "check", "gates_of", "reference_logits"]

SPEEDUP = "speedup_over_fp32"  # the one gate that is not about answers
FINEST = 1e-3


@dataclass(frozen=True)
class GateImages:
    """Prepared images uint8 (N, R, R, C) with targets, none of which calibrated or trained the model.

    Targets are those of `data.Split`, in the order of the model's labels. Without them the answers are compared with
    the network's, and no accuracy is judged.
    """

    images: NDArray[np.uint8]
    targets: NDArray[Any] | None
    on: str  # the split they are from: "val", "test"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an export may differ by. Shares and accuracies are in [0, 1]."""

    logits: float  # greatest difference, in standard deviations of a class's logit over the images
    agreement: float  # share of images with the same top-1; of labels said to be there, or not, of all images
    drop: float  # loss of top-1 accuracy, or of mean average precision
    speedup: float | None = None  # over fp32, measured; None: not asked for
    usual: float | None = None  # share of images beyond whose logits no answer is surer; None: there are none such

    @classmethod
    def of(cls, precision: Precision) -> Limits:
        """The limits a precision has by default.

        float32 may differ by rounding only. float16 weights are off by at most 2^-11 of themselves. bfloat16 keeps
        eight bits of every number on its way, and int8 moves every logit by some per cent: for these, decisions and
        accuracy judge, and speed, which is all they are made for. int8 weights with float32 activations lie between.

        A byte ends where its range ends. One image in a thousand makes the maps of some networks explode; int8 answers
        it as float32 does, with the greatest logits it has. So where float32's logits of an image reach further than
        those of 99 % of the images, both sides are drawn there, all of an image by one factor, before int8 is compared.

        Raises:
            UsageError: the precision is unknown.
        """
        if precision == "fp32":
            return cls(logits=1e-3, agreement=0.998, drop=0.002)
        if precision == "fp16":
            return cls(logits=0.2, agreement=0.99, drop=0.005)
        if precision == "bf16":
            return cls(logits=1.0, agreement=0.97, drop=0.005, speedup=1.0)
        if precision == "int8-weights":
            return cls(logits=1.0, agreement=0.97, drop=0.005)
        if precision in ("int8", "int8-dynamic"):
            return cls(logits=2.0, agreement=0.95, drop=0.01, speedup=1.0, usual=0.99)
        raise UsageError(
            f"precision {precision!r}", wanted="fp32, fp16, bf16 or int8, int8-weights, int8-dynamic", do="use one"
        )


class Judge(NamedTuple):
    """What is judged of the answers to a task, by name; each takes logits (N, K) first."""

    agreement: str
    alike: Callable[[NDArray[Any], NDArray[Any]], float]  # two sets of logits -> the share of equal decisions
    drop: str
    right: Callable[[NDArray[Any], NDArray[Any]], float]  # logits and targets -> how good they are, in [0, 1]


def _same_class(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float((one.argmax(1) == other.argmax(1)).mean())


def _same_labels(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of all images and labels those on the same side of a probability of a half."""
    return float(((one > 0) == (other > 0)).mean())


def _top1(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    return top_k_accuracy(logits, targets, k=1)


JUDGES: Final[Mapping[Task, Judge]] = MappingProxyType(
    {
        "classify": Judge("top1_agreement", _same_class, "accuracy_drop", _top1),
        "multilabel": Judge("labels_agreement", _same_labels, "map_drop", mean_average_precision),
    }
)


def reference_logits(bundle: Bundle, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the torch network says: float32 on the CPU, batch norms as trained. Logits (N, classes)."""
    from ..train.answer import BundleModel

    return BundleModel(bundle, device="cpu").run(images)


def gates_of(
    reference: NDArray[np.float32],
    answered: NDArray[np.float32],
    images: GateImages,
    limits: Limits,
    *,
    task: Task = "classify",
) -> tuple[Gate, ...]:
    """Compare two sets of logits (N, classes) for the same images.

    Differences are held against how much the logits vary from image to image: a network that says nearly the same of
    every image would hide a wrong mean or swapped channels behind the size of its logits. With `limits.usual`,
    images for which the network's own logits reach further than for that share of them are compared at that reach. NaN
    anywhere fails: no comparison with it holds.
    """
    n, judge = len(images.images), JUDGES[task]
    # Rounding grows with the logits themselves, so what hardly varies is not measured finer than that.
    scale = max(float(reference.std(axis=0).max()), FINEST * float(np.abs(reference).max()), FINEST)
    difference = float(np.abs(_apart(answered, reference, limits.usual)).max()) / scale
    sound = bool(np.isfinite(answered).all())
    agreement = judge.alike(answered, reference) if sound else 0.0
    gates = (
        Gate(name="logits_max_difference", value=difference, limit=limits.logits, passes="at_most", n=n, on=images.on),
        Gate(name=judge.agreement, value=agreement, limit=limits.agreement, passes="at_least", n=n, on=images.on),
    )
    if images.targets is None:
        return gates
    right = judge.right(answered, images.targets) if sound else 0.0
    drop = judge.right(reference, images.targets) - right
    return (*gates, Gate(name=judge.drop, value=drop, limit=limits.drop, passes="at_most", n=n, on=images.on))


def _apart(answered: NDArray[np.float32], reference: NDArray[np.float32], usual: float | None) -> NDArray[Any]:
    """How far logits (N, K) are apart, for unusual images of the reference when both are drawn to where it begins."""
    if usual is None:
        return answered - reference
    mean: NDArray[Any] = reference.mean(axis=0)
    own, given = reference - mean, answered - mean
    own_furthest, given_furthest = (np.abs(away).max(axis=1, keepdims=True) for away in (own, given))
    reach = np.quantile(own_furthest, usual)
    unusual = own_furthest > reach
    with np.errstate(invalid="ignore"):  # infinity becomes NaN, which fails
        given = np.where(unusual, given * (reach / np.maximum(given_furthest, reach)), given)
        apart: NDArray[Any] = given - np.where(unusual, own * (reach / np.maximum(own_furthest, reach)), own)
    return apart


def check(gates: tuple[Gate, ...], *, what: str) -> None:
    """Let an export pass, or refuse it.

    Raises:
        GateError: names every gate that failed, with its value and limit.
    """
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        words = {"at_most": "at most", "at_least": "at least"}
        raise GateError(
            f"{what} failed {len(failed)} of {len(gates)} checks: "
            + ", ".join(f"{g.name} = {g.value:.4g} on {g.n} {g.on}" for g in failed),
            wanted=", ".join(f"{g.name} {words[g.passes]} {g.limit:g}" for g in failed),
            do="nothing was written; export as fp32, or train before: for int8 through its roundings (quantize --qat)",
            failed=(g.name for g in failed),
        )
