"""What stays for a bound: never more than it allows, never less than the limits, and the least important first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.tables import TABLES, any_table
from mobilenets.arch import ArchSpec, cost, find
from mobilenets.compress import Limits, allocate, narrowed, widths
from mobilenets.compress.allocate import bill
from mobilenets.errors import BudgetError, CheckError, UsageError

FREE = Limits(divisor=1, minimum=1, least_share=0.0)
NAMES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v4_conv_small", "mobilenet_v4_hybrid_medium")


def scores_of(spec: ArchSpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {width.name: rng.random(width.size) for width in widths(spec)}


def counted(spec: ArchSpec, of: str) -> float:
    return getattr(cost(spec), of)


@settings(max_examples=40)
@given(spec=any_table(), seed=st.integers(0, 1000), of=st.sampled_from(("mult_adds", "parameters", "size_mb")))
def test_the_bill_of_any_narrower_network_is_what_is_counted_of_its_table(spec: ArchSpec, seed: int, of: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = {width.name: int(rng.integers(1, width.size + 1)) for width in widths(spec)}
    narrow = narrowed(spec, {name: range(size) for name, size in sizes.items()})
    costs = bill(spec, of)
    assert costs.total(sizes) == pytest.approx(counted(narrow, of), rel=1e-9)
    for name, size in sizes.items():
        if size > 1:
            less = costs.total({**sizes, name: size - 1})
            assert costs.saved(sizes, name, 1) == pytest.approx(costs.total(sizes) - less, rel=1e-6)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("name", NAMES)
def test_half_of_a_published_network_is_half_and_in_eights(name: str, allocation: str) -> None:
    spec = find(name)
    for of in ("mult_adds", "parameters"):
        most = 0.5 * counted(spec, of)
        kept = allocate(spec, scores_of(spec), of=of, most=most, allocation=allocation)
        narrow = narrowed(spec, kept)
        assert 0.45 * counted(spec, of) < counted(narrow, of) <= most
        for before, after in zip(widths(spec), widths(narrow), strict=True):
            assert after.size == before.size or after.size % 8 == 0 or before.name.endswith("heads")
            assert after.size >= min(8, before.size) or before.name.endswith("heads")
            assert after.size >= 0.1 * before.size


@settings(max_examples=40)
@given(
    spec=any_table(),
    seed=st.integers(0, 1000),
    share=st.floats(0.2, 0.99),
    of=st.sampled_from(("mult_adds", "parameters", "size_mb")),
    allocation=st.sampled_from(("uniform", "global")),
    divisor=st.sampled_from((1, 2, 4)),
)
def test_a_bound_is_kept_or_refused(
    spec: ArchSpec, seed: int, share: float, of: str, allocation: str, divisor: int
) -> None:
    limits = Limits(divisor=divisor, minimum=1, least_share=0.2)
    whole = counted(spec, of)
    try:
        kept = allocate(spec, scores_of(spec, seed), of=of, most=share * whole, allocation=allocation, limits=limits)
    except BudgetError:
        least = narrowed(spec, {width.name: range(limits.least(width)) for width in widths(spec)})
        assert counted(least, of) > share * whole
        return
    assert counted(narrowed(spec, kept), of) <= share * whole * (1 + 1e-9)
    for width in widths(spec):
        assert len(kept.get(width.name, range(width.size))) >= limits.least(width)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_least_important_channels_go(allocation: str) -> None:
    spec = TABLES["bottleneck"]
    scores = scores_of(spec)
    kept = allocate(spec, scores, of="mult_adds", most=0.5 * cost(spec).mult_adds, allocation=allocation, limits=FREE)
    assert kept
    for name, units in kept.items():
        gone = np.setdiff1d(np.arange(len(scores[name])), units)
        assert scores[name][gone].max() <= scores[name][units].min()
        assert np.all(np.diff(units) > 0)


def test_global_takes_what_matters_least_for_what_it_saves_and_uniform_the_same_of_all() -> None:
    spec = TABLES["bottleneck"]
    scores = scores_of(spec)
    scores["rows.3.expanded"][3:] *= 1e-6
    most = 0.9 * cost(spec).mult_adds
    ranked = allocate(spec, scores, of="mult_adds", most=most, allocation="global", limits=FREE)
    assert list(ranked) == ["rows.3.expanded"]
    larger = {**scores, "rows.3.expanded": 100 * scores["rows.3.expanded"]}
    again = allocate(spec, larger, of="mult_adds", most=most, allocation="global", limits=FREE)
    assert again["rows.3.expanded"].tolist() == ranked["rows.3.expanded"].tolist()  # shares of a width have no scale
    even = allocate(spec, scores, of="mult_adds", most=most, allocation="uniform", limits=FREE)
    shares = {width.name: len(even.get(width.name, range(width.size))) / width.size for width in widths(spec)}
    assert max(shares.values()) - min(shares.values()) <= 1 / 6


def test_channels_that_are_all_alike_go_evenly_and_not_row_by_row() -> None:
    spec = find("mobilenet_v2")
    alike = {width.name: np.ones(width.size) for width in widths(spec)}
    narrow = narrowed(spec, allocate(spec, alike, of="mult_adds", most=0.5 * cost(spec).mult_adds))
    shares = [after.size / before.size for before, after in zip(widths(spec), widths(narrow), strict=True)]
    assert min(shares) > 0.2


def test_what_cannot_be_is_refused() -> None:
    spec = TABLES["bottleneck"]
    scores, whole = scores_of(spec), cost(spec).mult_adds
    with pytest.raises(UsageError, match="nothing to do"):
        allocate(spec, scores, of="mult_adds", most=whole)
    with pytest.raises(BudgetError, match="every width at its least, mult_adds is"):
        allocate(spec, scores, of="mult_adds", most=0.01 * whole)
    with pytest.raises(UsageError, match="uniform or global"):
        allocate(spec, scores, of="mult_adds", most=0.9 * whole, allocation="even", limits=FREE)
    with pytest.raises(UsageError, match="mult_adds, parameters or size_mb"):
        allocate(spec, scores, of="flops", most=1.0)
    with pytest.raises(CheckError, match=r"rows\.0\.out are not finite"):
        allocate(spec, {**scores, "rows.0.out": np.full(6, np.nan)}, of="mult_adds", most=0.9 * whole)
    for wrong in ({"divisor": 0}, {"minimum": 0}, {"least_share": 1.5}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Limits(**wrong)
