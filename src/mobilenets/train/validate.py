"""How often a bundle is right on a data set: the torch network, float32, as `runtime.validate` does for artifacts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..data import Dataset, SplitName, prepared
from ..errors import UsageError
from ..runtime.validate import Validation, match_labels, validation_of
from .answer import BundleModel

__all__ = ["bundle_logits", "check_same_labels", "validate_bundle"]


def validate_bundle(
    bundle: Bundle, dataset: Dataset, *, split: SplitName | None = None, device: str = "auto"
) -> Validation:
    """Measure a bundle.

    Args:
        bundle: the network.
        dataset: images; its labels may be in another order than the bundle's, and fewer.
        split: default: the data set's final one, "test" where there is one.
        device: "auto", "cpu", "cuda", ...

    Raises:
        UsageError: the data has a class that the bundle lacks; names it. Or no such device.
        DataError: no such split, or no images in it.
        CheckError: the network answers with numbers that are not finite.
    """
    chosen = dataset.final_split if split is None else split
    own = match_labels(bundle.labels, dataset.labels)
    pixels = prepared(dataset, chosen, bundle.preprocess)
    logits = bundle_logits(bundle, pixels.images, device=device)
    return validation_of(logits, own[pixels.targets], labels=bundle.labels, data=dataset.name, split=chosen)


def bundle_logits(bundle: Bundle, images: NDArray[np.uint8], *, device: str = "auto") -> NDArray[np.float32]:
    """What the bundle's network says, in float32: logits (N, classes) of prepared images (N, R, R, C).

    Raises:
        UsageError: no such device, or the classifier was never trained.
    """
    return BundleModel(bundle, device=device).run(images)


def check_same_labels(bundle: Bundle, dataset: Dataset) -> None:
    """Whether a network can be trained on with these images and keep its classifier.

    Raises:
        UsageError: the labels are others, or in another order.
    """
    if bundle.labels != dataset.labels:
        raise UsageError(
            f"{dataset.name} has {len(dataset.labels)} labels that are not those of the bundle, or in another order",
            wanted="images of the classes that the network was trained for",
            do="train the bundle on these images first",
        )
