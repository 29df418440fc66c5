"""From a budget to a plan, with latencies that are given instead of measured."""

import itertools
from pathlib import Path

import pytest

from mobilenets.arch import CATALOG, find
from mobilenets.arch.narrower import narrower
from mobilenets.bench import Latency
from mobilenets.errors import UnknownNameError, UsageError
from mobilenets.fit import Budget, LatencyTable, Option, options
from mobilenets.fit.candidates import ALPHAS, FAMILIES, V4_FOR_THUMBNAILS, in_order_of_promise, promise
from mobilenets.fit.plan import (
    candidate_of,
    final_seconds,
    judging_seconds,
    make_plan,
    no_candidate,
    static_status,
    timed_status,
)
from mobilenets.fit.records import LatencyEstimate, RoundResult
from mobilenets.fit.state import Plan, State
from mobilenets.fit.together import widest_of


def latency_of(ms: float, spread: float = 0.02) -> Latency:
    return Latency(
        path="",
        median_ms=ms,
        low_ms=ms * (1 - spread),
        high_ms=ms * (1 + spread),
        p95_ms=ms * 1.1,
        min_ms=ms * 0.9,
        mean_ms=ms,
        iqr_ms=ms * spread,
        n=60,
        runs_per_round=10,
        warmup_runs=5,
        lead_runs=1,
        batch_size=1,
        threads=1,
        engine="made up",
        engine_version="1",
        round_medians_ms=(ms,) * 6,
    )


class Meter:
    """Stands in for `bench.measure_all`; knows what an option takes by the name of its spec."""

    def __init__(self, times: dict[str, float]) -> None:
        self.times = times
        self.asked: list[str] = []

    def __call__(self, paths, *, threads: int, seconds: float) -> tuple[Latency, ...]:
        from mobilenets.runtime import read_artifact

        names = [read_artifact(path)[0].spec_name for path in paths]
        self.asked += names
        return tuple(latency_of(self.times[name]) for name in names)


def choices(**changes) -> tuple[Option, ...]:
    return options(**{"classes": 10, "native_side": 32, "families": ("mobilenet_v1", "mobilenet_v2"), **changes})


def smooth_times(made: tuple[Option, ...], per_million: float = 0.01) -> dict[str, float]:
    return {o.spec.name: per_million * (o.cost.mult_adds / 1e6) ** 0.9 + 0.05 for o in made}


def test_candidates_are_the_product_of_the_choices_biggest_promise_first() -> None:
    made = choices(precisions=("fp32", "int8"))
    assert len(made) == 2 * len(ALPHAS) * 2 * 2
    assert len({(o.spec.digest, o.precision) for o in made}) == len(made)
    promises = [o.promise for o in made]
    assert promises == sorted(promises, reverse=True)
    assert {o.spec.head.classes for o in made} == {10}


def test_lower_resolutions_of_small_images_always_cost_less() -> None:
    for option in choices():
        if option.spec.resolution == 24:
            (full,) = [
                o for o in choices() if (o.family, o.alpha) == (option.family, option.alpha) and o.spec.resolution == 32
            ]
            assert option.cost.mult_adds < full.cost.mult_adds


@pytest.mark.parametrize("side", [8, 12, 20, 64, None])
def test_every_candidate_is_found_by_its_name(side: int | None) -> None:
    for option in choices(native_side=side, families=None):
        assert find(option.spec.name).rows == option.spec.rows


def test_photos_get_the_published_resolutions_and_all_their_strides() -> None:
    made = choices(native_side=None)
    assert {o.spec.resolution for o in made} == {224, 192, 160, 128, 96}
    assert {list(o.spec.placed())[-1].reduction for o in made} == {32}


@pytest.mark.parametrize(("native_side", "resolution"), [(None, 128), (32, 24)])
def test_a_network_promises_the_same_whatever_other_resolutions_were_asked_for(
    native_side: int | None, resolution: int
) -> None:
    among_others = {o.spec.name: o.promise for o in choices(native_side=native_side)}
    for option in choices(native_side=native_side, resolutions=(resolution,)):
        assert option.promise == pytest.approx(among_others[option.spec.name])


def test_thumbnails_get_another_v4_than_photos() -> None:
    assert {o.family for o in choices(families=None)} == {*FAMILIES, V4_FOR_THUMBNAILS}
    assert {o.family for o in choices(families=None, native_side=None)} == {*FAMILIES, "mobilenet_v4_conv_small"}
    (wide,) = choices(families=(V4_FOR_THUMBNAILS,), alphas=(1.0,), resolutions=(32,))
    assert [placed.out_size for placed in wide.spec.placed()] == [32, 16, 16, 8, 8, 8, 4, 4]


def test_an_unknown_family_or_an_empty_choice_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="mobilenet_v2"):
        choices(families=("mobilenet_v22",))
    with pytest.raises(UnknownNameError, match="mobilenet_v1"):  # of which nobody knows what it promises
        choices(families=("mobilenet_v1_shallow",))
    with pytest.raises(UsageError, match="empty choice"):
        choices(alphas=())


@pytest.mark.parametrize("family", FAMILIES)
def test_promise_rises_with_width_and_resolution_and_meets_the_papers(family: str) -> None:
    by_alpha = [promise(family, alpha=a, rho=1.0) for a in ALPHAS]
    assert by_alpha == sorted(by_alpha)
    assert promise(family, alpha=1.0, rho=0.75) < promise(family, alpha=1.0, rho=1.0)
    published = {"mobilenet_v1": 70.9, "mobilenet_v2": 71.8, "mobilenet_v3_large": 75.2, "mobilenet_v3_small": 67.5}
    assert abs(promise(family, alpha=1.0, rho=1.0) - published[family]) < 1.5


@pytest.mark.parametrize("family", [*sorted(CATALOG), V4_FOR_THUMBNAILS])
def test_every_family_of_the_catalogue_promises_something(family: str) -> None:
    assert 60 < promise(family, alpha=1.0, rho=1.0) < 90
    assert promise(family, alpha=0.5, rho=1.0) < promise(family, alpha=1.0, rho=1.0)


def test_entrants_come_from_every_family_and_differ_clearly_within_one() -> None:
    chosen = in_order_of_promise({o: o.promise for o in choices()}, most=6)
    assert {o.family for o in chosen[:2]} == {"mobilenet_v1", "mobilenet_v2"}
    for family in ("mobilenet_v1", "mobilenet_v2"):
        costs = sorted(o.cost.mult_adds for o in chosen if o.family == family)
        assert all(small <= 0.65 * large for small, large in itertools.pairwise(costs))


def test_costs_alone_rule_out_what_is_too_large_or_too_heavy() -> None:
    option = choices()[0]
    million = option.cost.mult_adds / 1e6
    assert static_status(option, Budget(mult_adds_m=million + 0.01)) is None
    assert static_status(option, Budget(mult_adds_m=million - 0.01))[0] == "too many mult-adds"
    assert static_status(option, Budget(size_mb=option.size_mb * 0.99))[0] == "too large"


def test_the_pessimistic_end_of_a_latency_decides() -> None:
    estimate = LatencyEstimate(median_ms=0.9, low_ms=0.8, high_ms=1.1, how="measured")
    assert timed_status(estimate, Budget(latency_ms=1.1)) is None
    assert timed_status(estimate, Budget(latency_ms=1.0))[0] == "too slow"


@pytest.mark.parametrize("limits", [{}, {"latency_ms": 0.0}, {"size_mb": -1.0}, {"latency_ms": 1.0, "threads": 0}])
def test_a_budget_without_a_limit_or_with_an_impossible_one_is_refused(limits: dict) -> None:
    with pytest.raises(UsageError):
        Budget(**limits)


def test_predictable_latencies_are_measured_in_part_and_the_rest_predicted_well(tmp_path: Path) -> None:
    made = choices(alphas=(0.25, 0.35, 0.5, 0.6, 0.75, 0.9, 1.0))
    times = smooth_times(made)
    meter = Meter(times)
    table = LatencyTable(threads=1, cache_dir=tmp_path, measure=meter)
    estimates = table.estimate(made)
    assert len(meter.asked) < len(made)
    assert table.predicted == len(made) - len(meter.asked)
    for option, estimate in estimates.items():
        assert estimate.low_ms <= times[option.spec.name] * 1.0001
        assert abs(estimate.median_ms / times[option.spec.name] - 1) < 0.1
    confirmed = table.confirm(next(o for o, e in estimates.items() if e.how == "predicted"))
    assert confirmed.how == "measured"


def test_unpredictable_latencies_are_all_measured(tmp_path: Path) -> None:
    made = choices()
    times = {o.spec.name: 1.0 + (i * 7 % 5) for i, o in enumerate(made)}
    meter = Meter(times)
    estimates = LatencyTable(threads=1, cache_dir=tmp_path, measure=meter).estimate(made)
    assert sorted(meter.asked) == sorted(times)
    assert all(e.how == "measured" and e.median_ms == times[o.spec.name] for o, e in estimates.items())


def test_without_time_only_the_narrowest_are_measured_and_the_rest_are_judged_by_them(tmp_path: Path) -> None:
    made = choices()
    meter = Meter(smooth_times(made))
    estimates = LatencyTable(threads=1, cache_dir=tmp_path, measure=meter).estimate(made, seconds=0.0)
    narrowest = {o.spec.name for o in made if o.alpha == min(ALPHAS)}
    assert set(meter.asked) == narrowest
    assert set(estimates) == set(made)
    for option in made:
        estimate = estimates[option]
        assert estimate.how == ("measured" if option.spec.name in narrowest else "predicted")
        # Nothing proves a prediction, so its interval is wide.
        assert option.spec.name in narrowest or estimate.high_ms >= 2 * estimate.median_ms


def test_networks_beyond_the_limit_are_not_measured_once_a_narrower_one_was_too_slow(tmp_path: Path) -> None:
    made = choices()
    meter = Meter(smooth_times(made))
    estimates = LatencyTable(threads=1, cache_dir=tmp_path, measure=meter).estimate(made, limit_ms=0.2)
    assert len(meter.asked) < len(made)
    assert all(e.high_ms > 0.2 for o, e in estimates.items() if o.alpha >= 1.0 and o.family == "mobilenet_v1")


def test_measurements_are_kept_by_network_threads_and_machine(tmp_path: Path) -> None:
    made = choices(alphas=(0.25, 0.5))
    meter = Meter(smooth_times(made))
    LatencyTable(threads=1, cache_dir=tmp_path, measure=meter).measure(made)
    again = LatencyTable(threads=1, cache_dir=tmp_path, measure=Meter({}))
    again.measure(made)
    assert again.measured == 0
    assert again.reused == len(made)
    other = Meter(meter.times)
    LatencyTable(threads=2, cache_dir=tmp_path, measure=other).measure(made)
    assert len(other.asked) == len(made)
    for file in tmp_path.iterdir():
        file.write_text("{")
    mended = Meter(meter.times)
    LatencyTable(threads=1, cache_dir=tmp_path, measure=mended).measure(made)
    assert len(mended.asked) == len(made)


def test_nothing_that_fits_names_the_nearest_and_what_it_would_take() -> None:
    made = choices()
    budget = Budget(latency_ms=0.1)
    candidates = []
    for option in made:
        ms = 0.2 + option.cost.mult_adds / 1e8
        estimate = LatencyEstimate(median_ms=ms, low_ms=ms, high_ms=ms * 1.05, how="measured")
        candidates.append(candidate_of(option, latency=estimate, status=timed_status(estimate, budget)))
    error = no_candidate(candidates, budget)
    smallest = min(candidates, key=lambda c: c.latency.high_ms)
    assert smallest.name in str(error)
    assert "--latency-ms 0.2" in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize("seconds", [5.0, 60.0, 300.0, 1500.0, 36000.0])
def test_a_plan_never_spends_more_than_there_is(seconds: float) -> None:
    made = choices()
    places = {o: i for i, o in enumerate(made)}
    plan = make_plan(made, places, dict.fromkeys(made, 500.0), train_images=5000, seconds=seconds, asked=seconds)
    spent = sum(count * each for count, each in plan.rounds) + plan.final_seconds
    assert spent < seconds
    assert plan.final_seconds > 0.5 * seconds
    assert [count for count, _ in plan.rounds] == sorted((count for count, _ in plan.rounds), reverse=True)


@pytest.mark.parametrize(
    ("spent", "seconds"), [(400.0, 555.0), (300.0, 655.0), (700.0, 300.0)], ids=["a little late", "early", "very late"]
)
def test_the_winner_has_the_time_that_is_left_and_at_least_half_of_its_own(spent: float, seconds: float) -> None:
    plan = Plan(entrants=(0,), rounds=(), final_seconds=600.0)
    assert final_seconds(plan, spent=spent, asked=1000.0) == seconds


def test_the_winner_leaves_time_for_judging_many_images() -> None:
    plan = Plan(entrants=(0,), rounds=(), final_seconds=600.0)
    latency = LatencyEstimate(median_ms=3.0, low_ms=2.9, high_ms=3.1, how="measured")
    judging = judging_seconds(latency, images=10_000)
    assert judging == pytest.approx(48.0)  # 30 s in float32, and int8 with the decoding of the pictures
    assert final_seconds(plan, spent=100.0, asked=1000.0, judging=judging) == pytest.approx(1000 - 100 - 45 - judging)
    assert judging_seconds(None, images=10_000) == 0.0  # of another device's latencies nothing follows for this one


def test_little_time_brings_smaller_networks_into_training() -> None:
    made = choices()
    places = {o: i for i, o in enumerate(made)}
    speeds = {o: 1e9 / o.cost.activations for o in made}

    def entrants(seconds: float) -> list[int]:
        plan = make_plan(made, places, speeds, train_images=45000, seconds=seconds, asked=seconds)
        return [made[place].cost.mult_adds for place in plan.entrants]

    assert max(entrants(300.0)) < max(entrants(1e6))
    assert max(entrants(1e6)) == max(o.cost.mult_adds for o in made)


def test_the_better_go_on_and_the_best_wins() -> None:
    plan = Plan(entrants=(4, 7, 1, 9), rounds=((4, 10.0), (2, 20.0)), final_seconds=100.0)
    tops = {4: 0.5, 7: 0.7, 1: 0.6, 9: 0.2}
    results = tuple((c, RoundResult(round=1, seconds=10.0, top1=t)) for c, t in tops.items())
    state = State(identity="x", plan=plan, results=results)
    assert state.standing(1) == (4, 7, 1, 9)
    assert state.standing(2) == (7, 1)
    second = tuple((c, RoundResult(round=2, seconds=20.0, top1=t)) for c, t in {7: 0.71, 1: 0.8}.items())
    state = State(identity="x", plan=plan, results=results + second)
    assert state.standing(3) == (1,)
    assert state.last_top1(1) == 0.8
    assert state.last_top1(9) == 0.2


def test_what_became_of_each_is_told_with_its_rounds() -> None:
    made = tuple(candidate_of(option) for option in choices()[:3])
    plan = Plan(entrants=(2, 0), rounds=((2, 10.0),), final_seconds=100.0)
    results = tuple((c, RoundResult(round=1, seconds=10.0, top1=t)) for c, t in {2: 0.5, 0: 0.7}.items())
    state = State(identity="x", plan=plan, results=results, candidates=made)
    chosen, untried, dropped = state.fates(0, {})
    assert (chosen.status, chosen.why) == ("chosen", "round 1: 70.0 % after 10 s")
    assert untried == made[1]
    assert (dropped.status, dropped.why) == ("dropped", "round 1: 50.0 % after 10 s; the choice had 70.0 %")
    refused, _, chosen = state.fates(2, {0: "its answers differ"})
    assert (refused.status, refused.why, chosen.status) == ("refused by a gate", "its answers differ", "chosen")


def test_an_elastic_plan_trains_the_edge_of_the_budget_at_once() -> None:
    made = choices(families=("mobilenet_v1", "mobilenet_v2"), alphas=(0.25, 0.5, 0.75, 1.0), resolutions=(32, 28, 24))
    limits = {32: 0.5, 28: 0.5, 24: 0.75}  # the widest that fits at each resolution
    fitting = [o for o in made if o.alpha <= limits[o.spec.resolution]]
    places = {option: place for place, option in enumerate(made)}
    arguments = {"train_images": 50_000, "seconds": 1000.0, "asked": 1000.0}
    plan = make_plan(fitting, places, dict.fromkeys(fitting, 5000.0), elastic=True, **arguments)
    entrants = [made[place] for place in plan.entrants]
    assert plan.together
    assert {(o.alpha, o.spec.resolution) for o in entrants} == {(0.5, 32), (0.75, 24)}
    assert len({o.family for o in entrants}) == 1
    assert sum(n * each for n, each in plan.rounds) + plan.final_seconds == pytest.approx(955.0)
    one_by_one = make_plan(fitting, places, dict.fromkeys(fitting, 5000.0), **arguments)
    assert not one_by_one.together
    assert len({made[place].family for place in one_by_one.entrants}) == 2


def test_one_width_at_the_edge_is_not_trained_together() -> None:
    made = choices(families=("mobilenet_v2",), alphas=(0.25, 0.5), resolutions=(32, 24))
    places = {option: place for place, option in enumerate(made)}
    arguments = {"train_images": 50_000, "seconds": 1000.0, "asked": 1000.0}
    speeds = dict.fromkeys(made, 5000.0)
    plan = make_plan(made, places, speeds, elastic=True, **arguments)
    assert plan == make_plan(made, places, speeds, **arguments)


def test_the_widest_of_the_entrants_holds_them_all_and_learns_for_them_only() -> None:
    made = choices(families=("mobilenet_v2",), alphas=(0.35, 0.5, 0.75), resolutions=(32, 28, 24))
    wanted = {(0.35, 32), (0.5, 28), (0.75, 24)}
    candidates = [candidate_of(o) for o in made if (o.alpha, o.spec.resolution) in wanted]
    spec, policy = widest_of(candidates, classes=10)
    assert spec.name == "mobilenet_v2_0.75_32_s8"
    assert (policy.narrowest, policy.inner, policy.widest) == (0.35, (0.5,), 0.75)
    assert policy.resolutions == (24, 28, 32)
    for candidate in candidates:
        assert narrower(spec, candidate.alpha, resolution=candidate.resolution).name == candidate.name
    with pytest.raises(UsageError, match="with 1 widths"):
        widest_of(candidates[:1], classes=10)
