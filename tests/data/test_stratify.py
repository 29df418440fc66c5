"""Claims about drawing splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.data.stratify import carve
from mobilenets.errors import UsageError

FRACTIONS = {"val": 0.1, "test": 0.1}


def drawn(counts: list[int], *, seed: int = 0, fractions: dict[str, float] = FRACTIONS) -> dict[str, np.ndarray]:
    targets = np.repeat(np.arange(len(counts)), counts)
    return carve(targets, labels=[f"class {i}" for i in range(len(counts))], fractions=fractions, seed=seed)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    seed=st.integers(0, 2**40),
    val=st.floats(0.01, 0.49),
    test=st.floats(0.01, 0.49),
)
def test_every_image_lands_in_exactly_one_part(counts: list[int], seed: int, val: float, test: float) -> None:
    parts = drawn(counts, seed=seed, fractions={"val": val, "test": test})
    assert list(parts) == ["train", "val", "test"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(sum(counts)))
    targets = np.repeat(np.arange(len(counts)), counts)
    for part, indices in parts.items():
        assert (np.diff(indices) > 0).all()
        for target, count in enumerate(counts):
            assert ((targets[indices] == target).sum() >= 1) == (count >= 3 or (part == "train" and count >= 1))


def test_each_class_gives_its_fraction() -> None:
    parts = drawn([100, 50, 500])
    targets = np.repeat(np.arange(3), [100, 50, 500])
    assert np.bincount(targets[parts["val"]]).tolist() == [10, 5, 50]
    assert np.bincount(targets[parts["test"]]).tolist() == [10, 5, 50]


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    one, same, other = drawn([200], seed=1), drawn([200], seed=1), drawn([200], seed=2)
    assert np.array_equal(one["val"], same["val"])
    assert not np.array_equal(one["val"], other["val"])


def test_another_class_does_not_move_the_images_of_the_others() -> None:
    assert np.array_equal(drawn([30, 40])["test"], [i for i in drawn([30, 40, 50])["test"] if i < 70])


@pytest.mark.parametrize("fractions", [{"val": 0.0}, {"val": 1.0}, {"val": -0.1}, {"val": 0.5, "test": 0.5}])
def test_fractions_that_leave_nothing_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="fraction"):
        drawn([10], fractions=fractions)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed"):
        drawn([10], seed=-1)
