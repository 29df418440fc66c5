"""What a reader makes of somebody else's checkpoint, and how that becomes a `Bundle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..arch import ArchSpec, ConvRow, with_classes
from ..bundle import Bundle
from ..errors import FileFormatError
from ..imagenet import imagenet_labels
from ..nets import Network, build, tensors_of
from ..records import Preprocess
from .labels import BACKGROUND, numbered_labels

__all__ = ["UNTRAINED_CLASSES", "Imported", "explain_misfit", "to_bundle", "untrained_head"]

UNTRAINED_CLASSES = 2  # of a checkpoint that holds no classifier; training brings its own
SHOWN = 8  # misfits told in one message; the rest is counted


@dataclass(frozen=True, eq=False)
class Imported:
    """A checkpoint in our terms: table, tensors by our names and shapes, and the conventions it was trained with.

    `labels` are those that the file itself carries, as many as the spec has classes; None where it carries none.
    """

    spec: ArchSpec
    tensors: Mapping[str, NDArray[np.float32]]
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)  # for the history: format, library, licence, source ...


def to_bundle(imported: Imported, *, labels: tuple[str, ...] | None = None, keep_background: bool = False) -> Bundle:
    """Settle the labels, check every tensor against the table, and make the bundle.

    Without labels from the caller or the file, a network of 1000 or 1001 classes is taken for an ImageNet one. The
    background class of TensorFlow's 1001 (index 0) is taken off the classifier; no image is of that class.

    Args:
        imported: what a reader made.
        labels: class names in the order of the file's classes; with or without "background" where those are 1001.
        keep_background: keep all 1001 classes.

    Raises:
        FileFormatError: tensors that do not fit the table, key by key and shape by shape; or another number of labels.
    """
    spec, tensors = imported.spec, dict(imported.tensors)
    explain_misfit(spec, tensors)
    chosen = labels if labels is not None else imported.labels
    classes = spec.head.classes
    if chosen is None:
        chosen = {1000: imagenet_labels(), 1001: (BACKGROUND, *imagenet_labels())}.get(classes)
    if chosen is None:
        chosen = numbered_labels(classes)
    if len(chosen) == classes - 1 == 1000:
        chosen = (BACKGROUND, *chosen)
    if len(chosen) != classes:
        raise FileFormatError(
            f"{len(chosen)} labels for a network of {classes} classes",
            wanted="one label per class, in the order of the classifier's outputs",
            do="give the labels that belong to this checkpoint",
        )
    told: dict[str, Any] = {"step": "import", **imported.told}
    if chosen[0].strip().lower() == BACKGROUND and classes == 1001 and not keep_background:
        for name in ("head.classifier.weight", "head.classifier.bias"):
            tensors[name] = tensors[name][1:]
        spec, chosen = with_classes(spec, classes - 1), chosen[1:]
        told["dropped"] = BACKGROUND
    return Bundle(
        spec=spec,
        task="classify",
        labels=tuple(chosen),
        preprocess=msgspec.structs.replace(imported.preprocess, resolution=spec.resolution, channels=spec.channels),
        tensors={name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()},
        history=(told,),
    )


def explain_misfit(spec: ArchSpec, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check names and shapes against the table's network, which is built without memory.

    Raises:
        FileFormatError: names each tensor that is missing, left over, of another shape, or not finite.
    """
    with torch.device("meta"):
        wanted = {
            name: tuple(tensor.shape)
            for name, tensor in Network(spec).state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
    wrong = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            wrong.append(f"{name} {tensor.shape} has no place")
        elif tensor.shape != wanted[name]:
            wrong.append(f"{name} is {tensor.shape}, the table wants {wanted[name]}")
        elif not np.isfinite(tensor).all():
            wrong.append(f"{name} holds numbers that are not finite")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise FileFormatError(
            f"{len(wrong)} tensors do not fit {spec.name}: " + "; ".join(wrong[:SHOWN]) + more,
            wanted=f"the {len(wanted)} tensors of that network, by name and shape",
            do="check that the checkpoint is whole and of the architecture that it was taken for",
        )


def untrained_head(spec: ArchSpec) -> dict[str, NDArray[np.float32]]:
    """Fresh tensors `head.*` for a checkpoint without a classifier, the same each time for the same table.

    Whoever uses it says so: `told["classifier"] = "none in the file"`.
    """
    alone = msgspec.structs.replace(spec, rows=(ConvRow(out=spec.out_channels, kernel=1),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = tensors_of(build(alone))
    return {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
