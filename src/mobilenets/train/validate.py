"""How well a bundle answers a data set: the torch network, float32, as `runtime.validate` does for artifacts."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..data import Dataset, SplitName
from ..errors import UsageError
from ..records import only_classifiers
from ..runtime.validate import LabelValidation, Validation, validate_with
from .answer import BundleModel

__all__ = ["bundle_logits", "check_same_labels", "measure_bundle", "validate_bundle"]


def validate_bundle(
    bundle: Bundle, dataset: Dataset, *, split: SplitName | None = None, device: str = "auto"
) -> Validation:
    """Measure a classifier, as `measure_bundle` does.

    Raises:
        UsageError: as there, or the bundle is no classifier.
        DataError: as there.
        CheckError: as there.
    """
    only_classifiers(bundle.task, what="accuracy")
    found = measure_bundle(bundle, dataset, split=split, device=device)
    assert isinstance(found, Validation)  # the task says so
    return found


def measure_bundle(
    bundle: Bundle, dataset: Dataset, *, split: SplitName | None = None, device: str = "auto"
) -> Validation | LabelValidation:
    """Measure a bundle.

    Args:
        bundle: the network.
        dataset: images; its labels may be in another order than the bundle's, and fewer.
        split: default: the data set's final one, "test" where there is one.
        device: "auto", "cpu", "cuda", ...

    Raises:
        UsageError: the data has a class that the bundle lacks, and names it; it is for another task; or no such device.
        DataError: no such split, or no images in it.
        CheckError: the network answers with numbers that are not finite.
    """
    return validate_with(
        partial(bundle_logits, bundle, device=device),
        dataset,
        task=bundle.task,
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        split=split,
    )


def bundle_logits(bundle: Bundle, images: NDArray[np.uint8], *, device: str = "auto") -> NDArray[np.float32]:
    """What the bundle's network says, in float32: logits (N, classes) of prepared images (N, R, R, C).

    Raises:
        UsageError: no such device, or the classifier was never trained.
    """
    return BundleModel(bundle, device=device).run(images)


def check_same_labels(bundle: Bundle, dataset: Dataset) -> None:
    """Whether a classifier can be trained on with these images and keep its last layer.

    Raises:
        UsageError: the labels are others, or in another order; or either is for another task.
    """
    for task in (bundle.task, dataset.task):
        only_classifiers(task, what="pruning, compressing or training for int8")
    if bundle.labels != dataset.labels:
        raise UsageError(
            f"{dataset.name} has {len(dataset.labels)} labels that are not those of the bundle, or in another order",
            wanted="images of the classes that the network was trained for",
            do="train the bundle on these images first",
        )
