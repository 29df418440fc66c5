"""How good the answers are: accuracy, confusion, intervals, calibration, precision. Pure numpy, no torch.

Throughout: N images, K classes; logits and probabilities are float (N, K), targets are integers (N,) in [0, K). Where
images have any number of K labels, targets are float (N, K): 1 has the label, 0 has it not, NaN is not known and takes
no part; a label is said to be there where its logit is above 0, its probability above a half.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

__all__ = [
    "average_precisions",
    "balanced_accuracy",
    "confusion",
    "expected_calibration_error",
    "f1_scores",
    "label_loss",
    "mcnemar",
    "mean_average_precision",
    "mean_of_known",
    "per_class_accuracy",
    "sigmoid",
    "softmax",
    "top_k_accuracy",
    "wilson_interval",
]

Z_95 = 1.959963984540054  # the standard normal's 97.5 % point: two-sided 95 %


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities (N, K) in [0, 1] from logits (N, K); each row sums to 1.

    The largest logit of a row is subtracted first, so no finite logit overflows.
    """
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities in [0, 1] from logits, each by itself; no finite logit overflows."""
    halves: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return halves


def top_k_accuracy(logits: NDArray[Any], targets: NDArray[Any], *, k: int) -> float:
    """The share of images, in [0, 1], whose target is among the `k` largest logits.

    Of equal logits the lower class index comes first, so a constant answer is right for k/K of balanced classes and
    not for all of them. A row with a NaN is wrong.

    Raises:
        UsageError: no images, shapes that do not match, a target outside [0, K), or k outside [1, K].
    """
    classes = _check(logits, targets)
    if not 1 <= k <= classes:
        raise UsageError(f"k is {k} for {classes} classes", wanted=f"1 <= k <= {classes}", do="choose such a k")
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    ahead = (logits > own) | ((logits == own) & (np.arange(classes) < targets[:, None]))
    right = (ahead.sum(axis=1) < k) & ~np.isnan(logits).any(axis=1)
    return float(right.mean())


def confusion(predicted: NDArray[Any], targets: NDArray[Any], *, classes: int) -> NDArray[np.int64]:
    """Counts (K, K): entry [t, p] is how many images of class t were taken for class p.

    Args:
        predicted: class indices (N,).
        targets: class indices (N,).
        classes: K.

    Raises:
        UsageError: shapes that differ, or an index outside [0, K).
    """
    if predicted.shape != targets.shape or predicted.ndim != 1:
        raise UsageError(
            f"predicted is {predicted.shape}, targets are {targets.shape}",
            wanted="two vectors of the same length",
            do="give one prediction per target",
        )
    for name, values in (("predicted", predicted), ("targets", targets)):
        _check_indices(name, values, classes=classes)
    flat = np.bincount(targets.astype(np.int64) * classes + predicted.astype(np.int64), minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def per_class_accuracy(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Accuracy of each class (K,), in [0, 1], from a confusion matrix (K, K) with true rows (its recall).

    A class without images has NaN: nothing is known about it.
    """
    counts = confusion.sum(axis=1)
    right = np.diagonal(confusion).astype(np.float64)
    shares: NDArray[np.float64] = np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return shares


def balanced_accuracy(confusion: NDArray[Any]) -> float:
    """The mean of the classes' accuracies, in [0, 1], from a confusion matrix (K, K) with true rows.

    A model that always names the largest class has 1/K, however large that class is. Classes without images do not
    count (Brodersen et al. 2010, for two classes).

    Raises:
        UsageError: no class has images.
    """
    shares = per_class_accuracy(confusion)
    if np.isnan(shares).all():
        raise UsageError("no class has images", wanted="at least one image", do="check the data")
    return float(np.nanmean(shares))


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share `correct / n`, within [0, 1].

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the
    usual p +- 1.96 s it stays inside [0, 1] and keeps its coverage near 0 and 1, where good models live.

    Raises:
        UsageError: n < 1, or correct outside [0, n].
    """
    if n < 1 or not 0 <= correct <= n:
        raise UsageError(f"{correct} correct of {n}", wanted="0 <= correct <= n and n >= 1", do="count again")
    share, z2 = correct / n, Z_95 * Z_95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the formula gives exactly 0 and 1; rounding errors must not.
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    return low, high


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """The probability, in [0, 1], that two answers to the same images differ as much as this by chance alone.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947),
    in its exact form, two-sided: only images count that one of them gets right and the other wrong, and by chance each
    of those is as likely one way as the other.

    Args:
        one: whether the first is right, (N,).
        other: whether the second is right on the same images, (N,).

    Raises:
        UsageError: shapes that differ.
    """
    if one.shape != other.shape or one.ndim != 1:
        raise UsageError(
            f"one is {one.shape}, the other {other.shape}",
            wanted="two vectors of the same length",
            do="use the same images",
        )
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    n, fewer = first + second, min(first, second)
    # Exact integers: floats would overflow beyond a thousand images.
    tail = sum(math.comb(n, count) for count in range(fewer + 1))
    doubled: float = 2 * tail / 2**n
    return min(1.0, doubled)


def expected_calibration_error(probabilities: NDArray[Any], targets: NDArray[Any], *, bins: int = 15) -> float:
    """How far confidence is from accuracy, in [0, 1]: 0 for a model that is right as often as it says.

    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3: images are binned
    by the probability of their predicted class, bin m being ((m - 1) / M, m / M]; the gaps |accuracy - confidence| of
    the bins are averaged, each weighed by its images. M = 15 is the paper's.

    Raises:
        UsageError: no images, shapes that do not match, a target outside [0, K), values outside [0, 1], or bins < 1.
    """
    _check(probabilities, targets)
    if bins < 1:
        raise UsageError(f"bins is {bins}", wanted="at least 1", do="choose a positive number; the paper takes 15")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise UsageError("some values are not in [0, 1]", wanted="probabilities", do="pass softmax(logits)")
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == targets).astype(np.float64)
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))


def average_precisions(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """How well each label's logits put the images that have it before those that have not: (K,), in [0, 1].

    The sum over thresholds of (recall gained) x (precision), without interpolation, as scikit-learn's
    `average_precision_score` has it; images with equal logits fall at one threshold. Guessing gives the share of images
    with the label. NaN for a label that no image has.

    Raises:
        UsageError: no images, shapes that do not match, or targets that are not 0, 1 or NaN.
    """
    _check_labels(logits, targets)
    pairs = [(own[~np.isnan(truth)], truth[~np.isnan(truth)]) for own, truth in zip(logits.T, targets.T, strict=True)]
    return np.array([_average_precision(own, truth == 1) for own, truth in pairs])


def f1_scores(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """The harmonic mean of precision and recall of each label (K,), in [0, 1]; NaN for a label that no image has.

    Raises:
        UsageError: as `average_precisions`.
    """
    _check_labels(logits, targets)
    said, has = (logits > 0) & ~np.isnan(targets), targets == 1
    right, either = (said & has).sum(axis=0), said.sum(axis=0) + has.sum(axis=0)
    shares: NDArray[np.float64] = np.divide(
        2.0 * right, either, out=np.full(len(either), np.nan), where=has.any(axis=0)
    )
    return shares


def mean_of_known(scores: NDArray[Any]) -> float:
    """The mean of the labels' scores (K,) that are not NaN: every label counts alike, however many images have it.

    Raises:
        UsageError: all are NaN.
    """
    if np.isnan(scores).all():
        raise UsageError("no image has any of the labels", wanted="at least one", do="use other images")
    return float(np.nanmean(scores))


def mean_average_precision(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """The mean of the labels' average precisions, in [0, 1]; labels that no image has do not count.

    Raises:
        UsageError: as `average_precisions`, or no image has any label.
    """
    return mean_of_known(average_precisions(logits, targets))


def label_loss(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Sigmoid cross-entropy in nats: summed over the labels that are known, mean over the images.

    Raises:
        UsageError: as `average_precisions`.
    """
    _check_labels(logits, targets)
    each = np.logaddexp(0, logits.astype(np.float64)) - logits * np.nan_to_num(targets)
    return float(np.where(np.isnan(targets), 0.0, each).sum() / len(targets))


def _average_precision(scores: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of the images at one threshold
    gained = np.diff(hits[last], prepend=0) / hits[-1]
    return float((gained * hits[last] / (last + 1)).sum())


def _check_labels(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape or not len(targets):
        raise UsageError(
            f"scores are {scores.shape}, targets are {targets.shape}",
            wanted="both (N, K) with N >= 1",
            do="give a target for every label of every image, NaN where it is not known",
        )
    if not (np.isnan(targets) | (targets == 0) | (targets == 1)).all():
        raise UsageError("some targets are neither 0 nor 1", wanted="0, 1, or NaN", do="correct them")


def _check(scores: NDArray[Any], targets: NDArray[Any]) -> int:
    """The number of classes, after checking that scores (N, K) and targets (N,) belong together."""
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not len(targets):
        raise UsageError(
            f"scores are {scores.shape}, targets are {targets.shape}",
            wanted="scores (N, K) and targets (N,) with N >= 1",
            do="give one row of scores per target",
        )
    classes = int(scores.shape[1])
    _check_indices("targets", targets, classes=classes)
    return classes


def _check_indices(name: str, values: NDArray[Any], *, classes: int) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"{name} are {values.dtype}", wanted="class indices, integers", do="convert them")
    if len(values) and (values.min() < 0 or values.max() >= classes):
        raise UsageError(
            f"{name} reach from {values.min()} to {values.max()}",
            wanted=f"class indices in [0, {classes})",
            do="check that the data and the model have the same classes",
        )
