from __future__ import annotations

import click
import pytest

from mobilenets.cli.params import DURATION, SETTING


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("25m", 1500), ("1.5h", 5400), ("90", 90), (".5m", 30), ("10 M", 600), (" 2h ", 7200), ("0.5", 0.5)],
)
def test_durations_are_read_in_seconds_minutes_and_hours(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "5d", "1h30m", "m", "nan", "inf", "1e3", "9" * 400])
def test_what_is_no_duration_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write 90s, 25m, 1\.5h"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "pair"), [("lr=0.05", ("lr", "0.05")), (" mirror = true ", ("mirror", "true")), ("a=b=c", ("a", "b=c"))]
)
def test_a_setting_is_a_field_and_its_value(text: str, pair: tuple[str, str]) -> None:
    assert SETTING.convert(text, None, None) == pair


@pytest.mark.parametrize("text", ["lr", "=1", "lr=", ""])
def test_what_is_no_setting_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write key=value"):
        SETTING.convert(text, None, None)
