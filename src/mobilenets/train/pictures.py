"""A run as pictures: curves, confusion matrix, sample answers. PNG bytes; no state of matplotlib's is touched."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from .checkpoint import Row

__all__ = ["draw_confusion", "draw_curves", "draw_label_samples", "draw_samples"]

DPI = 110
GRID = 4  # samples: rows of the picture, and a quarter more columns
NUMBERED = 20  # up to so many classes a confusion matrix shows counts,
NAMED = 60  # and up to so many it shows names
LONGEST = 24  # letters of a label
RIGHT, WRONG = "#1a7f37", "#cf222e"


def draw_curves(rows: Sequence[Row]) -> bytes:
    """Losses and what is to be maximised (accuracy, mean average precision) over epochs.

    Raises:
        UsageError: there are no rows.
    """
    if not rows:
        raise UsageError("a training without a validation", wanted="at least one row", do="train longer")
    figure = _figure(width=9.0, height=3.6)
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    mark = "o" if len(rows) < 20 else None  # a single point draws no line
    left.plot(epochs, [row.train_loss for row in rows], marker=mark, markersize=3, label="training")
    left.plot(epochs, [row.eval_loss for row in rows], marker=mark, markersize=3, label="validation")
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Loss")
    left.legend()
    best = max(rows, key=lambda row: row.goal)
    right.plot(epochs, [row.goal for row in rows], marker=mark, markersize=3, color="tab:green")
    right.plot([best.epoch], [best.goal], marker="*", markersize=11, color="tab:red", linestyle="none")
    right.set(
        xlabel="epoch", ylabel=f"{best.goal_name} (%)", title=f"Validation {best.goal_name}, best {best.goal:.2f} %"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return _png(figure)


def draw_confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """A confusion matrix (K, K) with the truth in rows, each row coloured by its shares.

    Up to 20 classes the counts are written in, and up to 60 the names beside.

    Raises:
        UsageError: the matrix is not (K, K) for K labels.
    """
    count = len(labels)
    if matrix.shape != (count, count):
        raise UsageError(
            f"a matrix {matrix.shape} for {count} labels", wanted=f"({count}, {count})", do="give all labels"
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.45 * count, 4.5, 14.0))
    figure = _figure(width=side + 1.0, height=side)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="said", ylabel="truth")
    if count <= NAMED:
        names = [_short(label) for label in labels]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False, fontsize=8)
        axes.set_yticks(range(count), names, parse_math=False, fontsize=8)
    if count <= NUMBERED:
        for (truth, said), n in np.ndenumerate(matrix):
            if n:
                colour = "white" if shares[truth, said] > 0.5 else "black"
                axes.text(said, truth, str(n), ha="center", va="center", fontsize=8, color=colour)
    return _png(figure)


def draw_samples(
    images: NDArray[np.uint8],
    targets: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    *,
    seed: int = 0,
) -> bytes:
    """Some images with what they are and what the model says, in green and red.

    Args:
        images: uint8 (N, R, R, C), C = 1 or 3.
        targets: class indices (N,).
        probabilities: (N, K) in [0, 1].
        labels: K names.
        seed: of the choice of images.

    Raises:
        UsageError: no images, or not as many targets and probabilities.
    """

    def caption(index: int) -> tuple[str, bool]:
        truth, said = int(targets[index]), int(probabilities[index].argmax())
        sure = f"({100 * probabilities[index, said]:.0f} %)"
        return f"{_short(labels[truth])}\nsaid {_short(labels[said])} {sure}", truth == said

    return _samples(images, targets, probabilities, caption, seed=seed)


def draw_label_samples(
    images: NDArray[np.uint8],
    targets: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    *,
    seed: int = 0,
) -> bytes:
    """Some images with the labels they have and those the model says (above a half), in green and red.

    Args:
        images: uint8 (N, R, R, C), C = 1 or 3.
        targets: (N, K): 1 has the label, 0 has it not, NaN is not known and cannot be wrong.
        probabilities: (N, K) in [0, 1].
        labels: K names.
        seed: of the choice of images.

    Raises:
        UsageError: no images, or not as many targets and probabilities.
    """

    def names(has: NDArray[np.bool_]) -> str:
        return _short(", ".join(labels[place] for place in np.flatnonzero(has).tolist()) or "nothing")

    def caption(index: int) -> tuple[str, bool]:
        truth, said = targets[index], probabilities[index] > 0.5
        return f"{names(truth == 1)}\nsaid {names(said)}", bool((np.isnan(truth) | (said == (truth == 1))).all())

    return _samples(images, targets, probabilities, caption, seed=seed)


def _samples(
    images: NDArray[np.uint8],
    targets: NDArray[Any],
    probabilities: NDArray[np.float64],
    caption: Callable[[int], tuple[str, bool]],
    *,
    seed: int,
) -> bytes:
    """Some images, each with its caption, green where that says it is right."""
    if not len(images) or not len(images) == len(targets) == len(probabilities):
        raise UsageError(
            f"{len(images)} images, {len(targets)} targets, {len(probabilities)} answers",
            wanted="as many of each, and at least one",
            do="give one target and one answer per image",
        )
    rows, columns = GRID, GRID + GRID // 4 + 1
    chosen = np.random.default_rng(seed).permutation(len(images))[: rows * columns]
    figure = _figure(width=1.9 * columns, height=2.15 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, chosen, strict=False):
        image = images[index]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        told, right = caption(int(index))
        axes.set_title(told, fontsize=8, color=RIGHT if right else WRONG, parse_math=False)
    return _png(figure)


def _figure(*, width: float, height: float) -> Any:
    """A figure of its own, in inches; pyplot would keep it in a list of the process."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # a script the font lacks: boxes are better than none
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
