"""From numbers to causes. Each rule looks at one cause and says nothing where the numbers do not speak for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..metrics import wilson_interval
from .records import Finding, Measured

__all__ = ["RULES", "findings_of"]

GAP = 0.10  # between training and validation accuracy, from which on a network has learned by heart
LOW_TRAINING = 0.90  # training accuracy below which a network has not learned what there is
DEAD = 0.25  # of a row's channels
UNEVEN = 1000.0  # between the rows' largest and smallest gradient, relative to their weights
MISCALIBRATED = 0.10
FEW_STEPS = 300
FEW_PASSES = 5
RARE = 3.0  # times that the largest class has more images than the smallest
WAITS = 0.2  # of a step
BETTER = 0.03  # accuracy that another way of feeding must bring

Rule = Callable[[Measured], Finding | None]


def findings_of(measured: Measured) -> tuple[Finding, ...]:
    """The causes that the numbers speak for, likely ones first."""
    found = [finding for rule in RULES if (finding := rule(measured)) is not None]
    return tuple(sorted(found, key=lambda finding: finding.sure != "likely"))


def _rate_too_high(m: Measured) -> Finding | None:
    remedy = "lower lr (a third of it), or set a longer warmup or clip: 1.0"
    if m.rate_lowered_at is not None:
        told = f"training diverged near step {m.rate_lowered_at} and went on with a lower rate"
        return Finding(cause="rate too high", sure="likely", evidence=told, remedy=remedy)
    losses = [row.train_loss for row in m.curve]
    rises = [index for index in range(1, len(losses)) if losses[index] > 1.2 * min(losses[:index])]
    if len(losses) >= 4 and len(rises) * 4 >= len(losses):
        told = f"the training loss stood more than 20 % above its best at {len(rises)} of {len(losses)} validations"
        return Finding(cause="rate too high", sure="possible", evidence=told, remedy=remedy)
    return None


def _too_short(m: Measured) -> Finding | None:
    if m.curve and m.train_top1 < LOW_TRAINING:
        last = m.curve[-1]
        told = f"training made {last.step} steps, {last.epoch:g} passes over the images"
        if last.step < FEW_STEPS:
            remedy = "train longer, or with smaller batches: more steps in the same passes"
            return Finding(cause="trained too short", sure="likely", evidence=told, remedy=remedy)
        if last.epoch < FEW_PASSES:
            told += f", and even of those only {100 * m.train_top1:.1f} % are right"
            return Finding(cause="trained too short", sure="possible", evidence=told, remedy="train longer")
    if len(m.curve) < 4:
        return None
    top1 = [row.goal for row in m.curve]
    quarter = max(1, len(top1) // 4)
    gained = max(top1[-quarter:]) - max(top1[:-quarter])
    if gained < 1.0 or m.train_top1 > 0.98:
        return None
    told = f"validation accuracy rose by {gained:.1f} points in the last quarter of the training"
    return Finding(cause="trained too short", sure="possible", evidence=told, remedy="train twice as long")


def _by_heart(m: Measured) -> Finding | None:
    low, _ = wilson_interval(round(m.train_top1 * m.train_n), m.train_n)
    if low - m.accuracy.top1_high < 0 or m.train_top1 - m.accuracy.top1 < GAP:
        return None
    told = f"{100 * m.train_top1:.1f} % of training images are right, and {100 * m.accuracy.top1:.1f} % of others"
    remedy = "more images, or randaugment: 2, mixup: 0.2, a higher weight_decay; or begin from an imported checkpoint"
    return Finding(cause="learned by heart", sure="likely", evidence=told, remedy=remedy)


def _too_small(m: Measured) -> Finding | None:
    _, high = wilson_interval(round(m.train_top1 * m.train_n), m.train_n)
    if high > LOW_TRAINING or m.train_top1 - m.accuracy.top1 >= GAP:
        return None
    if any(rule(m) is not None for rule in (_rate_too_high, _too_short, _normalisation, _stale_norms)):
        return None  # these explain it more simply
    told = f"even of the training images only {100 * m.train_top1:.1f} % are right"
    remedy = "a larger alpha or resolution, or longer training; weaker augmentation if there is much of it"
    return Finding(cause="network too small", sure="possible", evidence=told, remedy=remedy)


def _head(m: Measured) -> Finding | None:
    classes = len(m.labels)
    if m.head_width >= classes:
        return None
    told = f"the classifier tells {classes} classes apart by {m.head_width} numbers"
    return Finding(
        cause="head too small", sure="likely", evidence=told, remedy="a wider last row, or a hidden layer in the head"
    )


def _normalisation(m: Measured) -> Finding | None:
    best = max(m.inputs.otherwise, key=lambda name: m.inputs.otherwise[name], default=None)
    if best is not None:
        there = m.inputs.otherwise[best]
        low, _ = wilson_interval(round(there * m.inputs.n), m.inputs.n)
        _, high = wilson_interval(round(m.inputs.top1 * m.inputs.n), m.inputs.n)
        if low > high and there > m.inputs.top1 + BETTER:
            told = f"fed with {best}, {100 * there:.1f} % of {m.inputs.n} images are right instead of "
            told += f"{100 * m.inputs.top1:.1f} %"
            remedy = "correct the preprocessing where the weights come from, and import them again"
            return Finding(cause="wrong normalisation", sure="likely", evidence=told, remedy=remedy)
    if abs(m.inputs.mean) > 1.5 or not 0.2 < m.inputs.deviation < 5:
        told = f"normalised pixels have mean {m.inputs.mean:.2f} and deviation {m.inputs.deviation:.2f}"
        remedy = "check mean and std of the preprocessing: usual inputs lie around 0 with a deviation near 1"
        return Finding(cause="wrong normalisation", sure="possible", evidence=told, remedy=remedy)
    return None


def _stale_norms(m: Measured) -> Finding | None:
    if m.batch_norm_top1 is None:
        return None
    low, _ = wilson_interval(round(m.batch_norm_top1 * m.inputs.n), m.inputs.n)
    if low <= m.inputs.top1 + BETTER:
        return None
    told = f"with the images' own statistics {100 * m.batch_norm_top1:.1f} % are right, with the running ones "
    told += f"{100 * m.inputs.top1:.1f} %"
    remedy = "norm_momentum: auto, or recalibrate: 20; or these images differ from the training images"
    return Finding(cause="stale norms", sure="likely", evidence=told, remedy=remedy)


def _dead(m: Measured) -> Finding | None:
    rows = [row for row in m.rows if row.channels and row.dead > DEAD * row.channels]
    if not rows:
        return None
    worst = max(rows, key=lambda row: row.dead / row.channels)
    told = f"{len(rows)} rows have more than {100 * DEAD:.0f} % channels that say the same everywhere; most in "
    told += f"{worst.name}: {worst.dead} of {worst.channels}"
    remedy = "a lower rate or a longer warmup, or take them away: mobilenets prune"
    return Finding(cause="dead channels", sure="likely", evidence=told, remedy=remedy)


def _gradients(m: Measured) -> Finding | None:
    ratios = {row.name: row.gradient / row.weights for row in m.rows if row.gradient > 0 and row.weights > 0}
    if len(ratios) < 2:
        return None
    most, least = max(ratios, key=lambda n: ratios[n]), min(ratios, key=lambda n: ratios[n])
    if ratios[most] < UNEVEN * ratios[least]:
        return None
    told = (
        f"relative to its weights, the gradient of {most} is {ratios[most] / ratios[least]:,.0f} times that of {least}"
    )
    remedy = "clip: 1.0, a longer warmup, or optimizer: adamw, which evens gradients out"
    return Finding(cause="uneven gradients", sure="possible", evidence=told, remedy=remedy)


def _rare(m: Measured) -> Finding | None:
    counts = [count for count in m.train_counts if count]
    if not counts or max(counts) < RARE * min(counts) or m.accuracy.top1 - m.balanced < 0.05:
        return None
    told = f"the mean of the classes' accuracies is {100 * m.balanced:.1f} %, that of all images "
    told += f"{100 * m.accuracy.top1:.1f} %; classes have {min(counts):,} to {max(counts):,} training images"
    remedy = "sampling: balanced, or class_weights: sqrt_inverse; or more images of the rare classes"
    return Finding(cause="rare classes", sure="likely", evidence=told, remedy=remedy)


def _pair(m: Measured) -> Finding | None:
    matrix = np.array(m.accuracy.confusion)
    np.fill_diagonal(matrix, 0)
    totals = np.array(m.accuracy.confusion).sum(axis=1)
    truth, said = np.unravel_index(int(matrix.argmax()), matrix.shape)
    wrong, total = int(matrix[truth, said]), int(totals[truth])
    if len(m.labels) < 3 or total < 10 or wrong < 0.3 * total or m.accuracy.top1 < 0.5:
        return None
    told = f"{wrong} of {total} images of {m.labels[int(truth)]} are taken for {m.labels[int(said)]}"
    remedy = "look at these images: wrong labels, or classes that need a higher resolution or belong together"
    return Finding(cause="classes taken for each other", sure="possible", evidence=told, remedy=remedy)


def _confidence(m: Measured) -> Finding | None:
    error = m.accuracy.calibration_error
    if error < MISCALIBRATED or m.accuracy.n < 100:
        return None
    told = f"confidence and accuracy are {100 * error:.1f} points apart on average"
    remedy = "label_smoothing: 0.1, mixup: 0.2 or longer training; do not read the probabilities as such"
    return Finding(cause="wrong confidence", sure="likely", evidence=told, remedy=remedy)


def _waits(m: Measured) -> Finding | None:
    t = m.times
    if t.data_ms < WAITS * t.total_ms:
        return None
    told = f"{100 * t.data_ms / t.total_ms:.0f} % of a training step waits for images ({t.data_ms:.0f} ms)"
    remedy = "less randaugment, a faster disk for the cache, or a larger network for the same time"
    return Finding(cause="waits for data", sure="likely", evidence=told, remedy=remedy)


RULES: tuple[Rule, ...] = (
    _rate_too_high,
    _normalisation,
    _stale_norms,
    _by_heart,
    _too_small,
    _head,
    _too_short,
    _dead,
    _gradients,
    _rare,
    _pair,
    _confidence,
    _waits,
)
