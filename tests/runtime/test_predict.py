from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mobilenets.errors import UsageError
from mobilenets.runtime import open_artifact, predict

COLOURS = ("red", "lime", "blue")
LABELS = ("red", "green", "blue")


def test_the_brightest_channel_wins_with_its_probability(tiny_artifact: Path, picture: Callable[..., Path]) -> None:
    (prediction,) = predict(open_artifact(tiny_artifact), [picture("a.png", "red")])
    assert [score.label for score in prediction.top] == ["red", "green", "blue"]
    odds = np.exp([1.0, 0.0, 0.0])
    assert [score.probability for score in prediction.top] == pytest.approx(odds / odds.sum(), abs=1e-4)
    assert prediction.error is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_answers_keep_the_order_of_the_sources_for_every_batch_size(
    batch_size: int, tiny_artifact: Path, picture: Callable[..., Path]
) -> None:
    images = [picture(f"{i}.png", COLOURS[i % 3]) for i in range(7)]
    found = list(predict(open_artifact(tiny_artifact), iter(images), batch_size=batch_size))
    assert [(p.image, p.top[0].label) for p in found] == [(str(images[i]), LABELS[i % 3]) for i in range(7)]


def test_files_bytes_and_images_get_the_same_answer(tiny_artifact: Path, picture: Callable[..., Path]) -> None:
    path = picture("a.png", "orange")
    found = list(predict(open_artifact(tiny_artifact), [path, path.read_bytes(), Image.open(path)]))
    assert [p.image for p in found] == [str(path), "image 1", "image 2"]
    assert found[0].top == found[1].top == found[2].top


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_broken_image_does_not_stop_the_rest(
    batch_size: int, tiny_artifact: Path, picture: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    sources = [broken, picture("a.png", "blue"), tmp_path / "absent.png", picture("b.png", "red"), broken]
    found = list(predict(open_artifact(tiny_artifact), sources, batch_size=batch_size))
    assert [p.top[0].label if p.top else None for p in found] == [None, "blue", None, "red", None]
    assert "broken.jpg" in (found[0].error or "")
    assert "absent.png" in (found[2].error or "")


def test_only_broken_images_never_reach_the_engine(tiny_artifact: Path, tmp_path: Path) -> None:
    found = list(predict(open_artifact(tiny_artifact), [tmp_path / "a.png", tmp_path / "b.png"]))
    assert all(p.error and not p.top for p in found)


def test_no_sources_give_no_predictions(tiny_artifact: Path) -> None:
    assert list(predict(open_artifact(tiny_artifact), [])) == []


def test_top_k_is_at_most_the_number_of_classes(tiny_artifact: Path, picture: Callable[..., Path]) -> None:
    model, path = open_artifact(tiny_artifact), picture("a.png", "red")
    assert [len(next(predict(model, [path], top_k=k)).top) for k in (1, 2, 3, 5)] == [1, 2, 3, 3]


def test_equal_logits_come_in_the_order_of_the_classes(
    tiny: ModuleType, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    model = open_artifact(tiny.make_artifact(tmp_path / "flat", matrix=np.zeros((3, 4), dtype=np.float32)))
    (prediction,) = predict(model, [picture("a.png", "red")])
    assert [score.index for score in prediction.top] == [0, 1, 2, 3]


def test_an_answer_that_is_not_finite_is_an_error_of_that_image(
    tiny: ModuleType, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    matrix = np.full((3, 2), np.nan, dtype=np.float32)
    (prediction,) = predict(
        open_artifact(tiny.make_artifact(tmp_path / "nan", matrix=matrix)), [picture("a.png", "red")]
    )
    assert "not finite" in (prediction.error or "")


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"batch_size": 0}])
def test_impossible_values_are_refused_at_the_call(wrong: dict[str, int], tiny_artifact: Path) -> None:
    with pytest.raises(UsageError, match="is 0"):
        predict(open_artifact(tiny_artifact), [], **wrong)


def test_leaving_early_ends_the_decoding_threads(tiny_artifact: Path, picture: Callable[..., Path]) -> None:
    images = [picture(f"{i}.png", "red") for i in range(9)]
    predictions = predict(open_artifact(tiny_artifact), images, batch_size=2)
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_sources_are_drawn_only_as_they_are_needed(tiny_artifact: Path, picture: Callable[..., Path]) -> None:
    path, drawn = picture("a.png", "red"), []

    def endless() -> object:
        while True:
            drawn.append(1)
            yield path

    predictions = predict(open_artifact(tiny_artifact), endless(), batch_size=4)
    next(predictions)
    assert len(drawn) <= 3 * 4
    predictions.close()  # type: ignore[attr-defined]
