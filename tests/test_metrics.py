from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import UsageError
from mobilenets.metrics import (
    average_precisions,
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    f1_scores,
    label_loss,
    mcnemar,
    mean_average_precision,
    per_class_accuracy,
    sigmoid,
    softmax,
    top_k_accuracy,
    wilson_interval,
)


def test_softmax_is_stable_for_logits_that_would_overflow() -> None:
    assert softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])) == pytest.approx(np.array([[0.5, 0.5], [0.0, 1.0]]))


def test_softmax_of_one_row_works_like_that_of_many() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    assert softmax(logits)[2] == pytest.approx(softmax(logits[2]))


def test_top_k_accuracy_counts_targets_among_the_k_largest() -> None:
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    targets = np.array([0, 1, 2, 2])
    assert [top_k_accuracy(logits, targets, k=k) for k in (1, 2, 3)] == [0.25, 0.5, 1.0]


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_top_k_accuracy_agrees_with_sorting(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 4, (20, 6)).astype(np.float32)  # few values: many ties
    targets = rng.integers(0, 6, 20)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    assert top_k_accuracy(logits, targets, k=k) == pytest.approx((best == targets[:, None]).any(axis=1).mean())


def test_a_constant_answer_is_not_right_for_every_class() -> None:
    assert top_k_accuracy(np.zeros((4, 4)), np.arange(4), k=1) == 0.25


def test_a_row_with_nan_is_wrong() -> None:
    assert top_k_accuracy(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([0, 1]), k=2) == 0.5


def test_rows_of_the_confusion_matrix_are_the_truth() -> None:
    matrix = confusion(np.array([1, 1, 0]), np.array([0, 1, 0]), classes=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_per_class_accuracy_knows_nothing_of_a_class_without_images() -> None:
    accuracy = per_class_accuracy(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    assert accuracy[:2].tolist() == [0.5, 1.0]
    assert np.isnan(accuracy[2])


def test_wilson_interval_matches_published_values() -> None:
    # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
    # table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_the_unit_interval(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0)


def test_calibration_error_is_the_weighed_gap_between_confidence_and_accuracy() -> None:
    # Two bins: three images at 0.9 of which two are right, one at 0.6 which is wrong.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    error = expected_calibration_error(probabilities, np.array([0, 0, 1, 1]), bins=10)
    assert error == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.6)


def test_certainty_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


@pytest.mark.parametrize("targets", [np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([0]), []])
def test_targets_that_do_not_fit_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(UsageError):
        top_k_accuracy(np.zeros((2, 3)), np.asarray(targets), k=1)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UsageError, match="k is 4 for 3 classes"):
        top_k_accuracy(np.zeros((2, 3)), np.zeros(2, dtype=int), k=4)
    with pytest.raises(UsageError, match="softmax"):
        expected_calibration_error(np.full((1, 2), 5.0), np.array([0]))
    with pytest.raises(UsageError, match="3 correct of 2"):
        wilson_interval(3, 2)
    with pytest.raises(UsageError, match="one prediction per target"):
        confusion(np.array([0]), np.array([0, 1]), classes=2)


def test_balanced_accuracy_sees_through_a_model_that_always_names_the_largest_class() -> None:
    matrix = confusion(np.zeros(100, dtype=int), np.repeat([0, 1, 2], [90, 5, 5]), classes=4)
    assert balanced_accuracy(matrix) == pytest.approx(1 / 3)  # the fourth class has no images
    with pytest.raises(UsageError, match="no class has images"):
        balanced_accuracy(np.zeros((2, 2), dtype=int))


@given(st.integers(0, 1000))
def test_balanced_accuracy_is_plain_accuracy_where_classes_are_balanced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, predicted = np.repeat(np.arange(4), 10), rng.integers(0, 4, 40)
    assert balanced_accuracy(confusion(predicted, targets, classes=4)) == pytest.approx((targets == predicted).mean())


def test_mcnemar_counts_only_images_that_one_gets_right_and_the_other_wrong() -> None:
    one = np.array([True] * 10 + [False] * 90)
    other = np.array([False] * 10 + [False] * 90)
    assert mcnemar(one, other) == pytest.approx(2 / 2**10)
    both = np.concatenate([one, np.ones(500, bool)]), np.concatenate([other, np.ones(500, bool)])
    assert mcnemar(*both) == mcnemar(other, one) == pytest.approx(2 / 2**10)


def test_mcnemar_agrees_with_the_binomial_test() -> None:
    """Nine against three: 2 x (C(12,0) + C(12,1) + C(12,2) + C(12,3)) / 2^12."""
    one = np.array([True] * 9 + [False] * 3)
    assert mcnemar(one, ~one) == pytest.approx(2 * (1 + 12 + 66 + 220) / 4096)


def test_mcnemar_of_equal_answers_is_one_and_thousands_of_images_do_not_overflow() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1.0
    assert mcnemar(np.ones(5000, bool), np.zeros(5000, bool)) == 0.0
    with pytest.raises(UsageError):
        mcnemar(same, same[:2])


NAN = float("nan")
FOUR = np.array([[1.0], [1.0], [0.0], [1.0]])  # of logits 4, 3, 2, 1 in this order


def test_average_precision_is_that_of_cases_worked_out_by_hand() -> None:
    falling = np.array([[4.0], [3.0], [2.0], [-1.0]])
    # hits at ranks 1, 2 and 4: (1/1 + 2/2 + 3/4) / 3
    np.testing.assert_allclose(average_precisions(falling, FOUR), [(1 + 1 + 3 / 4) / 3])
    # the other way round: hits at ranks 1, 3, 4
    np.testing.assert_allclose(average_precisions(-falling, FOUR), [(1 + 2 / 3 + 3 / 4) / 3])
    # one threshold for the first three: two of them are right; then the fourth
    tied = np.array([[2.0], [2.0], [2.0], [1.0]])
    np.testing.assert_allclose(average_precisions(tied, FOUR), [2 / 3 * 2 / 3 + 1 / 3 * 3 / 4])
    # scikit-learn's own example (its documentation of average_precision_score): 0.83
    example = np.array([[0.1], [0.4], [0.35], [0.8]])
    np.testing.assert_allclose(average_precisions(example, np.array([[0.0], [0], [1], [1]])), [5 / 6])


def test_a_constant_answer_has_the_share_of_the_label_as_precision_in_any_order_of_the_images() -> None:
    for targets in (FOUR, FOUR[::-1]):
        np.testing.assert_allclose(average_precisions(np.zeros((4, 1)), targets), [3 / 4])


def test_unknown_cells_take_no_part_whatever_the_logits_are() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(40, 3)), rng.integers(0, 2, (40, 3)).astype(float)
    targets[::3, 1] = NAN
    other = np.where(np.isnan(targets), 1e3, logits)
    for measure in (average_precisions, f1_scores, label_loss):
        np.testing.assert_array_equal(measure(logits, targets), measure(other, targets))
    known = ~np.isnan(targets[:, 1])
    alone = average_precisions(logits[known, 1:2], targets[known, 1:2])
    np.testing.assert_allclose(average_precisions(logits, targets)[1], alone[0])


def test_f1_and_loss_are_those_of_cases_worked_out_by_hand() -> None:
    logits = np.array([[2.0, -1.0], [-3.0, -1.0], [1.0, -2.0]])
    targets = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, NAN]])
    # first label: one right, one missed, one too many; second: the only one missed
    np.testing.assert_allclose(f1_scores(logits, targets), [0.5, 0.0])
    p = 1 / (1 + np.exp(-logits))
    by_hand = -(np.log(p[0, 0]) + np.log(p[1, 0]) + np.log(1 - p[2, 0]) + np.log(p[0, 1]) + np.log(1 - p[1, 1])) / 3
    assert label_loss(logits, targets) == pytest.approx(by_hand)
    np.testing.assert_allclose(sigmoid(logits), p)
    assert sigmoid(np.array([-1e5, 1e5])).tolist() == [0.0, 1.0]


def test_a_label_that_no_image_has_does_not_count() -> None:
    logits = np.array([[2.0, 5.0], [1.0, -5.0]])
    targets = np.array([[1.0, 0.0], [0.0, NAN]])
    assert np.isnan(average_precisions(logits, targets)[1])
    assert np.isnan(f1_scores(logits, targets)[1])
    assert mean_average_precision(logits, targets) == 1.0
    with pytest.raises(UsageError, match="no image has any of the labels"):
        mean_average_precision(logits, np.zeros((2, 2)))


@pytest.mark.parametrize(
    "targets", [np.zeros(2), np.zeros((2, 3)), np.full((2, 2), 0.5)], ids=["classes", "other labels", "halves"]
)
def test_targets_that_are_no_labels_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(UsageError):
        average_precisions(np.zeros((2, 2)), targets)
