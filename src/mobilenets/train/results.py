"""What a run leaves in its folder for a person: a line per validation, a line per label, and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..data import Pixels
from ..files import write_bytes, write_text
from ..metrics import average_precisions, confusion, f1_scores, per_class_accuracy, sigmoid, softmax
from ..records import Task
from .checkpoint import Row
from .outcome import Outcome
from .pictures import draw_confusion, draw_curves, draw_label_samples, draw_samples
from .validate import bundle_logits

__all__ = ["RESULTS", "results_csv", "write_results"]


def results_csv(rows: Sequence[Row]) -> str:
    """`results.csv`: a header and one line per validation; a classifier's first six columns are timm's.

    Numbers of other tasks are left out.
    """
    names = [name for name in Row.__struct_fields__ if any(getattr(row, name) is not None for row in rows)]
    return _csv(names, ([_told(getattr(row, name)) for name in names] for row in rows))


def write_results(out: Path, outcome: Outcome, validation: Pixels, *, device: str) -> None:
    """How the best weights answer the validation images, class by class and in pictures."""
    logits = bundle_logits(outcome.best, validation.images, device=device)
    write_bytes(out / "curves.png", draw_curves(outcome.rows))
    RESULTS[outcome.best.task](out, np.nan_to_num(logits), validation, outcome.best.labels)


def _of_classes(out: Path, logits: NDArray[np.float32], validation: Pixels, labels: tuple[str, ...]) -> None:
    matrix = confusion(logits.argmax(axis=1), validation.targets, classes=len(labels))
    lines = []
    for index, (label, share) in enumerate(zip(labels, per_class_accuracy(matrix), strict=True)):
        images, right = int(matrix[index].sum()), int(matrix[index, index])
        lines.append([label, images, right, _share(share)])
    write_text(out / "classes.csv", _csv(["label", "images", "right", "accuracy"], lines))
    write_bytes(out / "confusion.png", draw_confusion(matrix, labels))
    samples = draw_samples(validation.images, validation.targets, softmax(logits), labels)
    write_bytes(out / "samples.png", samples)


def _of_labels(out: Path, logits: NDArray[np.float32], validation: Pixels, labels: tuple[str, ...]) -> None:
    targets = validation.targets
    lines = [
        [label, int((~np.isnan(targets[:, k])).sum()), int((targets[:, k] == 1).sum()), _share(precision), _share(f1)]
        for k, (label, precision, f1) in enumerate(
            zip(labels, average_precisions(logits, targets), f1_scores(logits, targets), strict=True)
        )
    ]
    write_text(out / "classes.csv", _csv(["label", "images", "positive", "average_precision", "f1"], lines))
    write_bytes(out / "samples.png", draw_label_samples(validation.images, targets, sigmoid(logits), labels))


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _told(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _share(value: float) -> str:
    """Per cent; nothing where there were no images."""
    return "" if np.isnan(value) else f"{100 * value:.6g}"


RESULTS: Final[Mapping[Task, Callable[[Path, NDArray[np.float32], Pixels, tuple[str, ...]], None]]] = MappingProxyType(
    {"classify": _of_classes, "multilabel": _of_labels}
)
