"""Elastic bundle -> plain bundle of one width and resolution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from ..arch import ArchSpec
from ..arch.narrower import narrower
from ..bundle import Bundle, Tensors
from ..data import Dataset, store
from ..errors import FileFormatError, UsageError
from ..nets import build, load_tensors, tensors_of
from ..nets.nested import places_in
from ..records import only_classifiers
from ..runtime.validate import match_labels
from ..train import Recipe, with_settings
from ..train.choose import native_side, store_side
from ..train.elastic_policy import ElasticPolicy
from ..train.judge import recalibrated
from ..train.loader import Batches, normalise
from ..train.machine import pick_device

__all__ = ["RECALIBRATION_IMAGES", "policy_of", "slice_bundle", "sliced_tensors"]

RECALIBRATION_IMAGES = 2048  # a thousand already do (US-Nets, section 3.1); these cost seconds
BATCH = 256


def policy_of(bundle: Bundle) -> ElasticPolicy:
    """The widths and resolutions that a bundle's weights were trained for.

    Raises:
        UsageError: they were trained for one width, or changed since.
        FileFormatError: the history tells of a policy that cannot be read.
    """
    entry = bundle.history[-1] if bundle.history else {}
    told = entry.get("elastic")
    if entry.get("step") != "train" or told is None:
        steps = [str(step.get("step")) for step in bundle.history]
        sliced = "slice" in steps
        raise UsageError(
            f"this bundle of {bundle.spec.name} is not elastic: "
            + ("it is a slice already" if sliced else f"its history is {', then '.join(steps) or 'empty'}"),
            wanted="a bundle whose last step is an elastic training",
            do="slice the bundle it was sliced from" if sliced else "make one: mobilenets elastic DATA --arch NAME",
        )
    try:
        return msgspec.convert(told, ElasticPolicy)
    except msgspec.ValidationError as error:
        raise FileFormatError(
            f"the history of this bundle of {bundle.spec.name} has a policy that cannot be read: {error}",
            wanted="the policy of an elastic training",
            do="use the version of mobilenets that trained it",
        ) from error


def sliced_tensors(bundle: Bundle, narrow: ArchSpec, *, alpha: float) -> Tensors:
    """The leading part of each tensor, and what its width adds; running statistics are still those of the wide network.

    A width between two that were trained has the own numbers of the narrower one in its leading part: with those it
    answers best, or nearly so (docs/log.md, 2026-11-30).

    Args:
        bundle: elastic.
        narrow: the table of that width.
        alpha: its width multiplier.

    Raises:
        SpecError: `narrow` is no narrower network of the bundle's family.
    """
    sliced = {name: bundle.tensors[name][place] for name, place in places_in(bundle.spec, narrow).items()}
    narrower_ones = [width for width in bundle.own if float(width) <= alpha]
    if not narrower_ones or alpha >= policy_of(bundle).widest:
        return sliced
    for name, added in bundle.own[max(narrower_ones, key=float)].items():
        whole = sliced[name].copy()
        whole[tuple(slice(0, n) for n in added.shape)] += added
        sliced[name] = whole
    return sliced


def slice_bundle(
    bundle: Bundle,
    *,
    alpha: float,
    resolution: int | None = None,
    dataset: Dataset,
    device: str = "auto",
    images: int = RECALIBRATION_IMAGES,
) -> Bundle:
    """A network of one width and resolution out of an elastic bundle: a bundle like any other.

    Batch norms were trained with the statistics of each batch at each width; the statistics of this width and
    resolution are taken from training images, augmented as in the training (US-Nets, section 3.1). The network that
    was trained to be the widest, at its own resolution, has its statistics: it is returned as it is.

    Args:
        bundle: made by an elastic training.
        alpha: width multiplier, counted from the paper's table; of a table of one's own, from that table.
        resolution: input side in pixels; None: the bundle's.
        dataset: whose training images give the statistics; their classes must be among the bundle's.
        device: "auto", "cpu", "cuda", ...
        images: how many of them, at least.

    Raises:
        UsageError: the bundle is not elastic, alpha or resolution is outside its range, its narrow networks have not
            begun to learn, a class of the data is not the bundle's, or there is no such device.
        SpecError: the network at that resolution has no name.
        DataError: the images cannot be used.
    """
    only_classifiers(bundle.task, what="slice")
    only_classifiers(dataset.task, what="slice")
    policy = policy_of(bundle)
    narrow = _within(bundle, policy, alpha=alpha, resolution=resolution)
    if narrow.digest == bundle.spec.digest:
        return bundle
    _check_learned(bundle, policy)
    match_labels(bundle.labels, dataset.labels)
    tensors, seen = _settled(bundle, narrow, dataset, alpha=alpha, device=device, images=images)
    recalibration = {"images": seen, "data": dataset.digest}
    return replace(
        bundle.after("slice", tensors, alpha=alpha, resolution=narrow.resolution, recalibration=recalibration),
        spec=narrow,
        preprocess=msgspec.structs.replace(bundle.preprocess, resolution=narrow.resolution),
    )


def _within(bundle: Bundle, policy: ElasticPolicy, *, alpha: float, resolution: int | None) -> ArchSpec:
    """The table of that width and resolution, if the weights were trained for it."""
    if not policy.narrowest <= alpha <= policy.widest:
        raise UsageError(
            f"alpha is {alpha:g} for {bundle.spec.name}",
            wanted=f"{policy.narrowest:g} to {policy.widest:g}, for which it was trained",
            do="choose a width in that range, or train another elastic bundle with --widths",
        )
    sides = policy.resolutions or (bundle.spec.resolution,)
    side = bundle.spec.resolution if resolution is None else resolution
    if not min(sides) <= side <= max(sides):
        raise UsageError(
            f"the resolution is {side} for {bundle.spec.name}",
            wanted=f"{min(sides)} to {max(sides)} pixels, for which it was trained"
            if len(set(sides)) > 1
            else f"{sides[0]} pixels, for which it was trained",
            do="choose one in that range, or train another elastic bundle with --resolutions",
        )
    return narrower(bundle.spec, alpha, resolution=side)


def _check_learned(bundle: Bundle, policy: ElasticPolicy) -> None:
    """Whether the training went on after the widest had learned alone; bundles of before it was told are trusted."""
    done = bundle.history[-1].get("done", 1)
    if done <= policy.alone:
        raise UsageError(
            f"this training of {bundle.spec.name} was stopped after {done:.0%}, when only the widest had learned",
            wanted=f"more than {policy.alone:.0%} of it: from then on the narrower ones learn",
            do="let it go on: mobilenets elastic ... --resume",
        )


def _settled(
    bundle: Bundle, narrow: ArchSpec, dataset: Dataset, *, alpha: float, device: str, images: int
) -> tuple[Tensors, int]:
    """The tensors of a slice with its own statistics, and from how many images these are."""
    place = pick_device(device)
    network = build(narrow)
    load_tensors(network, sliced_tensors(bundle, narrow, alpha=alpha))
    network = network.to(place).to(memory_format=torch.channels_last)
    seen = 0

    def drawn() -> Iterator[Tensor]:
        nonlocal seen
        for batch in _training_images(bundle, narrow, dataset, device=place, images=images):
            seen += len(batch)
            yield batch

    return tensors_of(recalibrated(network, drawn(), device=place, dtype=torch.float32)), seen


def _training_images(
    bundle: Bundle, narrow: ArchSpec, dataset: Dataset, *, device: torch.device, images: int
) -> Iterator[Tensor]:
    """At least `images` training images, or all, as batches (B, C, R, R) like those of the elastic training."""
    preprocess = msgspec.structs.replace(bundle.preprocess, resolution=narrow.resolution)
    side = store_side(narrow, native_side=native_side(dataset))
    batches = Batches(store(dataset, "train", side=side, channels=narrow.channels), _recipe_of(bundle), preprocess)
    for number, drawn in enumerate(itertools.islice(batches.epoch(0), -(-images // BATCH))):
        yield batches.distort(normalise(drawn.pixels.to(device), preprocess), step=number)


def _recipe_of(bundle: Bundle) -> Recipe:
    """How the bundle's training images were drawn and augmented, in batches large enough for statistics."""
    told: Mapping[str, Any] = bundle.history[-1].get("recipe", {})
    return msgspec.structs.replace(with_settings(Recipe(epochs=1.0), dict(told)), batch_size=BATCH)
