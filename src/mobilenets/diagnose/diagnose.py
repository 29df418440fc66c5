"""`diagnose`: a bundle and its data -> what was measured, and what it means."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from .. import images
from ..bundle import Bundle
from ..data import Dataset, SplitName, prepared, store
from ..errors import DataError, UsageError
from ..fit.records import Accuracy
from ..metrics import balanced_accuracy, confusion, per_class_accuracy, top_k_accuracy
from ..nets import Network, build, load_tensors
from ..records import Environment, Preprocess, only_classifiers
from ..runtime.validate import match_labels, validation_of
from ..train import Recipe, Row, forward_all
from ..train.choose import native_side, recipe_for, store_side
from ..train.loader import Batches
from ..train.machine import memory_explained, pick_device
from .probe import batch_norm_answers, row_health, steps
from .records import Diagnosis, Inputs, Measured
from .rules import findings_of

__all__ = ["diagnose"]

TRAIN_SAMPLE = 512  # training images that accuracy on training images is measured with
INPUT_SAMPLE = 512  # images that are fed in other ways
ROW_SAMPLE = 256  # images that rows are looked at with
STEPS = 4
PACKAGES = ("mobilenets", "torch", "numpy", "pillow")
FEWEST = 64  # images from which on batch statistics say anything
# Usual ways to feed a network: mean and std of values in [0, 1].
WAYS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "values in [0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "values in [0, 255]": ((0.0,) * 3, (1 / 255,) * 3),
}


def diagnose(
    bundle: Bundle,
    dataset: Dataset,
    *,
    split: SplitName | None = None,
    rows: tuple[Row, ...] = (),
    device: str = "auto",
) -> Diagnosis:
    """Measure a bundle and say what its numbers speak for.

    Args:
        bundle: a classifier.
        dataset: the images it was trained on, or others with classes that it knows.
        split: whose accuracy is judged; None: "val" where there is one, for "test" is for the final number.
        rows: the validations of its training, where they are known.
        device: "auto", "cpu", "cuda", ...

    Raises:
        UsageError: the data has a class that the bundle lacks, the classifier was never trained, or memory runs out.
        DataError: no images.
        CheckError: it answers with numbers that are not finite.
    """
    for task in (bundle.task, dataset.task):
        only_classifiers(task, what="diagnose")
    if bundle.untrained_classifier:
        raise UsageError(
            f"the classifier of this {bundle.spec.name} was never trained",
            wanted="a network that tells classes apart",
            do="train it on labelled images first: mobilenets train BUNDLE DATA",
        )
    chosen: SplitName = split or ("val" if "val" in dataset.splits else dataset.final_split)
    recipe = recipe_for(_recipe(bundle), dataset)
    with memory_explained(recipe.batch_size):
        measured = _measure(bundle, dataset, chosen, recipe, rows, device=device)
    return Diagnosis(measured=measured, findings=findings_of(measured))


def _measure(
    bundle: Bundle, dataset: Dataset, split: SplitName, recipe: Recipe, curve: tuple[Row, ...], *, device: str
) -> Measured:
    place = pick_device(device)
    own = match_labels(bundle.labels, dataset.labels)
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    network = network.to(place).to(memory_format=torch.channels_last).eval()
    pixels = prepared(dataset, split, bundle.preprocess)
    logits = forward_all(network, pixels.images, bundle.preprocess, device=place, dtype=torch.float32)
    targets = own[pixels.targets]
    sample = np.sort(np.random.default_rng(0).permutation(len(targets))[:INPUT_SAMPLE])
    seen, meant = np.array(pixels.images[sample]), targets[sample]
    train_images, train_targets = _training_images(bundle, dataset)
    train_logits = forward_all(network, train_images, bundle.preprocess, device=place, dtype=torch.float32)
    times, gradients = steps(network, _batches(bundle, dataset, recipe), recipe, bundle.preprocess, count=STEPS)
    accuracy = _accuracy(logits, targets, bundle.labels, data=dataset.name, split=split)
    own_statistics = None
    if len(seen) >= FEWEST:
        own_statistics = top_k_accuracy(batch_norm_answers(network, seen, bundle.preprocess), meant, k=1)
    counts = np.bincount(own[dataset.split("train").targets], minlength=len(bundle.labels))
    trained = [step for step in bundle.history if step.get("step") == "train"]
    return Measured(
        model=bundle.spec.name,
        digest=bundle.digest,
        data=dataset.name,
        labels=bundle.labels,
        accuracy=accuracy,
        balanced=balanced_accuracy(np.array(accuracy.confusion)),
        train_n=len(train_targets),
        train_top1=top_k_accuracy(train_logits, own[train_targets], k=1),
        train_counts=tuple(counts.tolist()),
        batch_norm_top1=own_statistics,
        inputs=_inputs(network, seen, meant, bundle.preprocess, device=place),
        rows=row_health(network, seen[:ROW_SAMPLE], bundle.preprocess, gradients),
        head_width=bundle.spec.head.hidden or bundle.spec.out_channels,
        times=times,
        curve=curve,
        rate_lowered_at=trained[-1].get("rate_lowered_at") if trained else None,
        environment=Environment.capture(packages=PACKAGES),
    )


def _recipe(bundle: Bundle) -> Recipe:
    """The one it was trained with last, where this version can still read it."""
    for step in reversed(bundle.history):
        if step.get("step") == "train" and "recipe" in step:
            try:
                return msgspec.convert(step["recipe"], Recipe)
            except msgspec.ValidationError:
                break
    return Recipe(epochs=1.0)


def _batches(bundle: Bundle, dataset: Dataset, recipe: Recipe) -> Batches:
    side = native_side(dataset)
    kept = store(dataset, "train", side=store_side(bundle.spec, native_side=side), channels=bundle.spec.channels)
    return Batches(kept, recipe, bundle.preprocess)


def _training_images(bundle: Bundle, dataset: Dataset) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Some training images, prepared as for validation, with the data set's targets."""
    train = dataset.split("train")
    made, targets = [], []
    for index in np.random.default_rng(0).permutation(len(train))[:TRAIN_SAMPLE].tolist():
        decoded = train.read(index, channels=bundle.preprocess.channels)
        if not isinstance(decoded, images.Fault):
            made.append(images.prepare(decoded.image, bundle.preprocess))
            targets.append(int(train.targets[index]))
    if not made:
        raise DataError(f"no training image of {dataset.name} can be read", wanted="at least one", do="check the data")
    return np.stack(made), np.array(targets)


def _accuracy(
    logits: NDArray[np.float32], targets: NDArray[np.int64], labels: Sequence[str], *, data: str, split: SplitName
) -> Accuracy:
    told = validation_of(logits, targets, labels=labels, data=data, split=split)
    matrix = confusion(logits.argmax(axis=1), targets, classes=len(labels))
    shares = per_class_accuracy(matrix).tolist()
    return Accuracy(
        split="test" if split == "test" else "val",
        n=told.n,
        top1=told.top1,
        top1_low=told.top1_low,
        top1_high=told.top1_high,
        top5=told.top5,
        calibration_error=told.calibration_error,
        per_class=tuple(None if np.isnan(share) else share for share in shares),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
    )


def _inputs(
    network: Network,
    seen: NDArray[np.uint8],
    targets: NDArray[np.int64],
    preprocess: Preprocess,
    *,
    device: torch.device,
) -> Inputs:
    def top1(pixels: NDArray[np.uint8], way: Preprocess) -> float:
        logits = forward_all(network, pixels, way, device=device, dtype=torch.float32)
        return top_k_accuracy(np.nan_to_num(logits), targets, k=1)

    channels = preprocess.channels
    ways = {
        name: msgspec.structs.replace(preprocess, mean=mean[:channels], std=std[:channels])
        for name, (mean, std) in WAYS.items()
    }
    otherwise = {
        name: top1(seen, way) for name, way in ways.items() if (way.mean, way.std) != (preprocess.mean, preprocess.std)
    }
    if channels == 3:
        otherwise["red and blue exchanged"] = top1(np.ascontiguousarray(seen[..., ::-1]), preprocess)
    normalised = (seen.astype(np.float64) / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    return Inputs(
        n=len(seen),
        mean=float(normalised.mean()),
        deviation=float(normalised.std()),
        top1=top1(seen, preprocess),
        otherwise=otherwise,
    )
