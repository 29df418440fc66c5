from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mobilenets.errors import UsageError
from mobilenets.train.checkpoint import Row
from mobilenets.train.pictures import draw_confusion, draw_curves, draw_samples

ODD = ("$x$ & $y", "café", "犬", "a_b^{", "x" * 300)  # mathematics, accents, a script the font lacks, a long one


def row(epoch: float) -> Row:
    return Row(
        epoch=epoch, train_loss=2 / epoch, eval_loss=2 / epoch, eval_top1=50, eval_top5=90, lr=0.1, step=1, seconds=1
    )


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize("count", [1, 40])
def test_curves_are_drawn_from_one_row_on(count: int) -> None:
    assert size_of(draw_curves([row(1 + i) for i in range(count)])) == (990, 396)


def test_curves_without_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one row"):
        draw_curves([])


@pytest.mark.parametrize("classes", [2, 30, 1000])
def test_a_confusion_matrix_of_any_size_stays_viewable(classes: int) -> None:
    width, height = size_of(draw_confusion(np.eye(classes, dtype=np.int64), [f"class {i}" for i in range(classes)]))
    assert max(width, height) <= 1700


def test_labels_of_any_kind_can_be_drawn() -> None:
    count = len(ODD)
    assert size_of(draw_confusion(np.zeros((count, count), np.int64), ODD))
    images = np.zeros((count, 8, 8, 3), np.uint8)
    assert size_of(draw_samples(images, np.arange(count), np.eye(count), ODD))


def test_samples_are_the_same_every_time_and_may_be_grey() -> None:
    images = np.random.default_rng(0).integers(256, size=(30, 8, 8, 1), dtype=np.uint8)
    first, again = (draw_samples(images, np.arange(30) % 2, np.full((30, 2), 0.5), ("a", "b")) for _ in range(2))
    assert first == again


def test_samples_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match="as many of each"):
        draw_samples(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(1, np.int64), np.ones((2, 1)), ("a",))


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="for 3 labels"):
        draw_confusion(np.zeros((2, 2), np.int64), ("a", "b", "c"))


def test_pyplot_is_never_imported() -> None:
    code = (
        "import sys, numpy as np; from mobilenets.train.pictures import draw_confusion;"
        "draw_confusion(np.eye(2, dtype=np.int64), ('a', 'b')); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
