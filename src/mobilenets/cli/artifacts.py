"""What verbs that write artifacts have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..data import Dataset
    from ..export import GateImages
    from ..records import Format

__all__ = ["gate_images_of", "is_fp32_of", "replaceable"]


def gate_images_of(bundle: Bundle, dataset: Dataset) -> GateImages:
    """Validation images with targets in the order of the bundle's labels.

    Raises:
        UsageError: the data has a class that the bundle lacks, or is for another task.
    """
    from ..data import prepared
    from ..export import GateImages
    from ..export.images import gate_images
    from ..runtime.validate import check_same_task, match_labels, own_targets

    check_same_task(bundle.task, dataset)
    own = match_labels(bundle.labels, dataset.labels)
    drawn = gate_images(prepared(dataset, "val", bundle.preprocess), on="val")
    assert drawn.targets is not None  # a split has them
    targets = own_targets(drawn.targets, own, count=len(bundle.labels))
    return GateImages(images=drawn.images, targets=targets, on=drawn.on)


def is_fp32_of(bundle: Bundle, folder: Path, *, format_: Format) -> bool:
    """Whether the float32 artifact of this very bundle is there already."""
    from ..errors import UsageError
    from ..runtime import open_artifact

    try:
        there = open_artifact(folder).artifact
    except UsageError:  # broken, or a program, which is not run for this
        return False
    return there.precision == "fp32" and there.format == format_ and there.bundle_digest == bundle.digest


def replaceable(folder: Path) -> Path:
    """A folder that is new, empty, or an artifact, which the new one replaces as a whole.

    Raises:
        UsageError: anything else is in it.
    """
    from ..errors import UsageError

    if folder.exists() and not (folder / "artifact.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} holds something else", wanted="a new folder, or that of an artifact", do="name another with -o"
        )
    return folder
