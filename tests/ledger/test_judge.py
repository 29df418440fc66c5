"""What pays and what does not, without any network."""

import msgspec
import pytest

from ledger.measurements import measured
from mobilenets.errors import UsageError
from mobilenets.ledger import Ratio, judge

START = measured(right=90, size_mb=4.0)
BEFORE = measured(right=90, size_mb=2.0)


def ratio(low: float, high: float) -> Ratio:
    return Ratio(value=(low + high) / 2, low=low, high=high, rounds=20)


@pytest.mark.parametrize(
    ("right", "size_mb", "faster", "verdict", "said"),
    [
        (90, 1.0, (0.8, 0.9), "kept", "0.50 times the size, but 0.85 times as fast (0.80 to 0.90)"),
        (90, 2.0, (1.1, 1.3), "kept", "1.20 times as fast (1.10 to 1.30)"),
        (90, 3.0, (1.1, 1.3), "kept", "1.20 times as fast (1.10 to 1.30), but 1.50 times the size"),
        (89, 1.0, (1.1, 1.3), "kept", "1.20 times as fast (1.10 to 1.30), 0.50 times the size"),
        (88, 1.0, (1.1, 1.3), "rolled back", "top-1 88.00 % is 2.00 points below the start's 90.00 %, and 1 may be"),
        (90, 2.0, (0.9, 1.5), "rolled back", "it brings nothing: 1.20 times as fast (0.90 to 1.50), 1.00 times the si"),
        (90, 1.99, (0.9, 1.1), "rolled back", "it brings nothing"),  # some bytes of names are no gain
        (95, 2.0, (0.9, 1.1), "rolled back", "it brings nothing"),  # it was to make the network cheaper
    ],
)
def test_a_step_for_cost_is_surely_faster_or_smaller_and_loses_little(
    right: int, size_mb: float, faster: tuple[float, float], verdict: str, said: str
) -> None:
    tried = measured(right=right, size_mb=size_mb, faster=ratio(*faster))
    found = judge(tried, start=START, before=BEFORE, max_drop=1.0, pays_by=("cost",))
    assert found.verdict == verdict
    assert said in found.why
    assert found.lost == ("may be" in found.why)


@pytest.mark.parametrize(("right", "verdict"), [(91, "kept"), (90, "rolled back"), (89, "rolled back")])
def test_a_step_for_accuracy_is_more_often_right(right: int, verdict: str) -> None:
    tried = measured(right=right, size_mb=0.1, faster=ratio(2, 3))
    found = judge(tried, start=START, before=BEFORE, max_drop=1.0, pays_by=("accuracy",))
    assert found.verdict == verdict
    assert f"{right - 90:+.2f} points" in found.why


def test_losses_add_up_over_the_steps_that_stand() -> None:
    before = measured(right=89, size_mb=2.0)
    tried = measured(right=88, size_mb=1.0, faster=ratio(2, 3))
    assert judge(tried, start=START, before=before, max_drop=1.0, pays_by=("cost",))[0] == "rolled back"
    assert judge(tried, start=START, before=before, max_drop=2.0, pays_by=("cost",))[0] == "kept"


def test_a_drop_of_exactly_what_may_be_lost_is_allowed() -> None:
    start = msgspec.structs.replace(START, val=msgspec.structs.replace(START.val, top1=0.9123))
    tried = measured(right=90, size_mb=1.0, faster=ratio(2, 3))
    tried = msgspec.structs.replace(tried, val=msgspec.structs.replace(tried.val, top1=0.9023))
    assert judge(tried, start=start, before=BEFORE, max_drop=1.0, pays_by=("cost",))[0] == "kept"


def test_accuracies_of_other_images_are_no_account() -> None:
    other = measured(right=90, size_mb=1.0, n=101)
    with pytest.raises(UsageError, match="accuracies of 101, 100 and 100 images"):
        judge(other, start=START, before=BEFORE, max_drop=1.0, pays_by=("cost",))
