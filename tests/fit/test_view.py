from __future__ import annotations

from typing import Any

import pytest

from mobilenets.fit.view.markup import el, join
from mobilenets.fit.view.scales import Box, Scale, place, ticks
from mobilenets.fit.view.scatter import front_of
from mobilenets.fit.view.wording import duration, ms, percent, short


def test_the_front_keeps_only_what_nothing_beats() -> None:
    assert front_of([(1, 50), (2, 60), (3, 55), (2, 58), (4, 61)]) == [(1, 50), (2, 60), (4, 61)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (84.2, 91.7), (1e-5, 3e-5), (-3, 7), (0, 12345)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, about=6)
    assert 3 <= len(found) <= 13
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_values_far_apart_get_a_logarithmic_scale() -> None:
    scale = Scale.around([0.1, 1.0, 40.0], start=0, end=100, positive=True)
    assert scale.log
    assert scale(0.1) < scale(1.0) < scale(40.0) < 100
    assert 1.0 in scale.ticks(about=8)
    assert not Scale.around([1.0, 2.0], start=0, end=100, positive=True).log


def test_a_label_goes_where_nothing_is() -> None:
    room, own = Box(0, 0, 200, 100), Box(92, 42, 108, 58)
    right = Box(108, 40, 200, 60)
    found = place(100, 50, width=40, height=14, within=room, taken=[own, right])
    assert found is not None
    assert found.inside(room)
    assert found.overlap(own) == found.overlap(right) == 0
    assert place(100, 50, width=300, height=14, within=room, taken=[]) is None


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (ms(0.912), "0.91 ms"),
        (ms(12.34), "12.3 ms"),
        (ms(1482.0), "1,482 ms"),
        (ms(0.0123), "0.012 ms"),
        (percent(0.86449), "86.4 %"),
        (percent(0.99999), "99.9 %"),
        (percent(1.0), "100.0 %"),
        (duration(9.97), "10 s"),
        (duration(59.7), "1 min"),
        (duration(581.4), "9 min 41 s"),
        (duration(8100), "2 h 15 min"),
        (short("abcdefghij", length=5), "ab\u2026ij"),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, wanted: str) -> None:
    assert shown.replace("\u00a0", " ") == wanted


def test_text_is_escaped_and_markup_is_not() -> None:
    inner: Any = el("b", "<&>", at={"title": '"', "id": None, "width": 1.50})
    assert join(["<", inner]).text == '&lt;<b title="&quot;" width="1.5">&lt;&amp;&gt;</b>'
