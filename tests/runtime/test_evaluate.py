from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mobilenets.errors import CheckError, UsageError
from mobilenets.runtime import evaluate, open_artifact, run_batches


def coloured(targets: np.ndarray) -> np.ndarray:
    """Images (N, 8, 8, 3) whose brightest channel is their target."""
    images = np.zeros((len(targets), 8, 8, 3), dtype=np.uint8)
    images[np.arange(len(targets)), :, :, targets] = 200
    return images


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_accuracy_and_confusion_are_those_of_the_answers(batch_size: int, tiny_artifact: Path) -> None:
    shown = np.array([0, 1, 2, 0, 1, 1])
    targets = np.array([0, 1, 2, 0, 1, 0])  # the last one is mistaken
    found = evaluate(open_artifact(tiny_artifact), coloured(shown), targets, batch_size=batch_size)
    assert (found.n, found.top1, found.top5) == (6, 5 / 6, None)
    assert found.top1_low < found.top1 < found.top1_high
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert found.per_class == pytest.approx([2 / 3, 1, 1])
    assert found.logits.shape == (6, 3)
    assert 0 <= found.calibration_error <= 1


def test_top5_is_told_where_it_says_something(tiny: ModuleType, tmp_path: Path) -> None:
    model = open_artifact(tiny.make_artifact(tmp_path / "flat", matrix=np.zeros((3, 10), dtype=np.float32)))
    found = evaluate(model, np.zeros((10, 8, 8, 3), dtype=np.uint8), np.arange(10))
    assert (found.top1, found.top5) == (0.1, 0.5)


def test_batches_are_put_together_in_order(tiny_artifact: Path) -> None:
    engine = open_artifact(tiny_artifact).engine
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    assert run_batches(engine, images, batch_size=4) == pytest.approx(engine.run(images), abs=1e-6)


def test_answers_that_are_not_finite_fail_the_check(tiny: ModuleType, tmp_path: Path) -> None:
    matrix = np.full((3, 2), np.inf, dtype=np.float32)
    model = open_artifact(tiny.make_artifact(tmp_path / "a", matrix=matrix))
    with pytest.raises(CheckError, match="2 of 2 images"):
        evaluate(model, coloured(np.array([0, 1])), np.array([0, 1]))


def test_data_that_do_not_fit_are_refused(tiny_artifact: Path) -> None:
    model = open_artifact(tiny_artifact)
    with pytest.raises(UsageError, match="2 images and 3 targets"):
        evaluate(model, coloured(np.array([0, 1])), np.array([0, 1, 2]))
    with pytest.raises(UsageError, match="0 images"):
        evaluate(model, coloured(np.array([], dtype=int)), np.array([], dtype=int))
    with pytest.raises(UsageError, match="the same classes"):
        evaluate(model, coloured(np.array([0, 1])), np.array([0, 7]))
    with pytest.raises(UsageError, match="batch_size is 0"):
        run_batches(model.engine, coloured(np.array([0])), batch_size=0)
