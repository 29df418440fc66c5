import numpy as np
import pytest

from mobilenets.errors import UsageError
from mobilenets.export.calibration import LEAST_HELD, MOST_HELD, check_calibration, held_back


def test_a_quarter_judges_spread_over_all_for_data_sets_lie_sorted_by_class() -> None:
    judging = held_back(100)
    assert judging.sum() == 25
    assert [part.sum() for part in np.split(judging, 4)] == pytest.approx([25 / 4] * 4, abs=1)


def test_too_few_images_to_judge_by_all_calibrate() -> None:
    assert not held_back(4 * LEAST_HELD - 1).any()
    assert held_back(4 * LEAST_HELD).sum() == LEAST_HELD


def test_many_images_are_judged_by_no_more_than_are_needed() -> None:
    assert held_back(10_000).sum() == MOST_HELD


def test_int8_without_images_is_refused() -> None:
    with pytest.raises(UsageError, match="int8 without calibration images"):
        check_calibration(np.zeros((0, 8, 8, 3), np.uint8))
