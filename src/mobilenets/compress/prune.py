"""Structured pruning: a bundle and a bound -> a bundle of a narrower network.

Channels go whole, with everything that is tied to them, so that the file is smaller and every engine has less to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arch import ArchSpec, cost
from ..bundle import Bundle
from ..errors import BudgetError, UsageError
from ..nets import Network, build, load_tensors, tensors_of
from ..nets.settle import settle_norms
from ..records import only_classifiers
from ..train.judge import recalibrated
from ..train.loader import Batches, normalise
from ..train.machine import pick_device
from .allocate import Allocation, Counted, Limits, allocate
from .cut import cut, narrowed
from .importance import Importance, Scores, weight_scores
from .taylor import taylor_scores

__all__ = ["Budget", "Measure", "Target", "costs_of", "prune"]

Budget = Literal["mult_adds", "parameters", "size_mb", "latency_ms"]
Measure: TypeAlias = Callable[[ArchSpec], float]  # milliseconds that a table's network takes for one image

IMAGES = 1024  # that Taylor scores and the statistics of norms are taken from, at least, where there are so many
PROBES = 8  # networks that are measured on the way to a latency
CLOSE = 0.02  # the search ends when the bounds on the share of mult-adds are so close to each other


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pruned network may cost.

    Raises:
        UsageError: a bound that is not above 0, or a share that is not below 1.
    """

    of: Budget
    most: float  # products, numbers, 10^6 bytes or milliseconds; or a share
    relative: bool = False  # `most` is a share of what the network costs before

    def __post_init__(self) -> None:
        if not 0 < self.most < (1 if self.relative else float("inf")):
            raise UsageError(
                f"{self.of} = {self.most:g}{'x' if self.relative else ''}",
                wanted="a share between 0 and 1" if self.relative else "a bound above 0",
                do=f"correct {self.of}",
            )

    def absolute(self, whole: float) -> float:
        """The bound for a network that costs `whole`."""
        return self.most * whole if self.relative else self.most


def costs_of(spec: ArchSpec) -> dict[Counted, float]:
    """What is counted of a table, by the name of its budget."""
    counted = cost(spec)
    return {"mult_adds": counted.mult_adds, "parameters": counted.parameters, "size_mb": counted.size_mb}


def prune(
    bundle: Bundle,
    target: Target,
    *,
    importance: Importance = "l2",
    allocation: Allocation = "global",
    limits: Limits | None = None,
    batches: Batches | None = None,
    measure: Measure | None = None,
    device: str = "auto",
) -> Bundle:
    """Keep the most important channels of a network, as many as the target allows.

    The result is a bundle like any other; its last step of history tells what was done. Without images its norms keep
    the statistics of the whole network. Either way it is to be trained on: pruning alone costs accuracy.

    Args:
        bundle: a trained network.
        target: what the result may cost.
        importance: how channels are ranked: see `weight_scores` and `taylor_scores`.
        allocation: "uniform" or "global": see `allocate`.
        limits: how narrow widths may become; None: the usual ones.
        batches: of training images with the bundle's classes. Taylor scores need them, and the norms' statistics are
            taken anew from them.
        measure: how long a network takes; a latency needs it, other targets do not call it.
        device: "auto", "cpu", "cuda", ...

    Raises:
        BudgetError: the target cannot be kept within the limits.
        UsageError: the network keeps the target as it is, or something is missing that the choices need.
        CheckError: the network does not answer with finite numbers.
    """
    only_classifiers(bundle.task, what="prune")
    place = pick_device(device)
    begun = _settled(bundle, batches, place) if batches is not None and bundle.folded_norms else bundle
    scores = _scores(begun, importance, batches, place)
    if target.of == "latency_ms":
        kept, measured = _for_latency(begun.spec, scores, target, allocation=allocation, limits=limits, measure=measure)
    else:
        most = target.absolute(costs_of(begun.spec)[target.of])
        kept = allocate(begun.spec, scores, of=target.of, most=most, allocation=allocation, limits=limits)
        measured = {}
    spec, tensors = cut(begun.spec, begun.tensors, kept)
    images = 0

    def shown(drawn: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        nonlocal images
        for batch, _ in drawn:
            images += len(batch)
            yield batch

    if batches is not None:
        network = _network(spec, tensors, place)
        again = shown(_drawn(batches, bundle, place))
        tensors = tensors_of(recalibrated(network, again, device=place, dtype=torch.float32))
    told = {
        "target": msgspec.to_builtins(target),
        "importance": importance,
        "allocation": allocation,
        "limits": msgspec.to_builtins(Limits() if limits is None else limits),
        "before": costs_of(bundle.spec),
        "after": costs_of(spec),
        "recalibration_images": images,
        **measured,
    }
    name = spec.name if spec.name.endswith("_pruned") else f"{spec.name}_pruned"
    return replace(bundle.after("prune", tensors, **told), spec=msgspec.structs.replace(spec, name=name))


def _scores(bundle: Bundle, importance: Importance, batches: Batches | None, device: torch.device) -> Scores:
    if importance != "taylor":
        return weight_scores(bundle, importance)
    if batches is None:
        raise UsageError(
            "importance by taylor, and no images", wanted="training images", do="give them, or choose l1, l2 or norm"
        )
    if bundle.untrained_classifier:
        raise UsageError(
            "importance by taylor, and the classifier was never trained",
            wanted="a loss that means something",
            do="train first, or choose l1, l2 or norm",
        )
    return taylor_scores(bundle, _drawn(batches, bundle, device), device=device)


def _for_latency(
    spec: ArchSpec,
    scores: Scores,
    target: Target,
    *,
    allocation: Allocation,
    limits: Limits | None,
    measure: Measure | None,
) -> tuple[dict[str, NDArray[np.intp]], Mapping[str, Any]]:
    """The widest network that was measured to keep a latency, by halving the range of mult-adds."""
    if measure is None:
        raise UsageError(
            "a latency to keep, and no way to measure", wanted="measure", do="give one, or bound mult_adds"
        )
    whole_ms = measure(spec)
    most_ms = target.absolute(whole_ms)
    if whole_ms <= most_ms:
        raise UsageError(
            f"the network takes {whole_ms:.3f} ms",
            wanted=f"more than {most_ms:.3f} ms, or nothing to do",
            do="lower it",
        )
    whole = costs_of(spec)["mult_adds"]
    low, high = 0.0, 1.0
    share = most_ms / whole_ms  # if time went with the products
    best: dict[str, NDArray[np.intp]] | None = None
    found_ms = fastest_ms = whole_ms
    for _ in range(PROBES):
        try:
            kept = allocate(spec, scores, of="mult_adds", most=share * whole, allocation=allocation, limits=limits)
        except BudgetError:
            low = share  # so narrow a network is not allowed
        else:
            took = measure(narrowed(spec, kept))
            fastest_ms = min(fastest_ms, took)
            if took <= most_ms:
                low, best, found_ms = share, kept, took
            else:
                high = share
        if high - low < CLOSE * high:
            break
        share = (low + high) / 2
    if best is None:
        raise BudgetError(
            f"the fastest of the networks that were tried takes {fastest_ms:.3f} ms",
            wanted=f"at most {most_ms:.3f} ms",
            do="allow narrower widths (least_share, minimum, divisor), or start from a smaller network",
        )
    return best, {"latency_ms": {"before": whole_ms, "after": found_ms, "most": most_ms}}


def _settled(bundle: Bundle, batches: Batches, device: torch.device) -> Bundle:
    """Norms that came folded get statistics, without which there is nothing to take anew behind a cut."""
    network = _network(bundle.spec, bundle.tensors, device)
    settle_norms(network, (images for images, _ in _drawn(batches, bundle, device)))
    return replace(bundle, tensors=tensors_of(network))


def _drawn(batches: Batches, bundle: Bundle, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images as they are learned from, normalised, with their classes; at least `IMAGES` where there are."""
    seen = 0
    for number, drawn in enumerate(batches.epoch(0)):
        images = batches.distort(normalise(drawn.pixels.to(device), bundle.preprocess), step=number)
        yield images, drawn.targets.to(device)
        seen += len(images)
        if seen >= IMAGES:
            return


def _network(spec: ArchSpec, tensors: Mapping[str, NDArray[np.float32]], device: torch.device) -> Network:
    network = build(spec)
    load_tensors(network, tensors)
    return network.to(device).to(memory_format=torch.channels_last)
