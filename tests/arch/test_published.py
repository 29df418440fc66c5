"""Every published number and line that we hold, recomputed from our tables."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from mobilenets.arch import Check, Fact, Line, Table, cost, facts, find, tables, verify, with_width
from mobilenets.arch.published import Reading
from mobilenets.arch.published_networks import resolve, task_networks
from mobilenets.arch.rows import BottleneckRow

CHECKS = verify()


def _told(check: Check) -> str:
    return f"{check.about} is {check.computed} here"


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.name)
def test_a_page_is_what_our_tables_count_to_or_the_reason_is_known(table: Table) -> None:
    of_page = [check for check in CHECKS if check.table == table.name]
    assert len(of_page) == len(table.lines) + sum(fact.metric != "top1" for fact in table.facts)
    assert [_told(check) for check in of_page if check.verdict == "mismatch"] == []


def test_the_pages_are_those_of_the_four_papers_and_of_the_libraries() -> None:
    names = {table.name for table in tables()}
    assert names >= {f"V1 Table {n}" for n in range(1, 10)} | {f"V2 Table {n}" for n in range(2, 7)}
    assert names >= {f"V3 Table {n}" for n in (1, 2, 3, 6, 7, 8, 9)} | {f"V4 Table {n}" for n in (6, *range(11, 16))}
    assert names >= {f"V{version} TF-slim checkpoints" for version in (1, 2, 3)} | {"Keras applications"}
    slim = {table.name: table for table in tables()}
    assert len({fact.model for fact in slim["V1 TF-slim checkpoints"].facts}) == 16
    assert len({fact.model for fact in slim["V2 TF-slim checkpoints"].facts}) == 22


def test_more_than_a_thousand_numbers_are_checked_and_few_are_errata() -> None:
    counts = Counter(check.verdict for check in CHECKS)
    assert len(CHECKS) >= 1500
    assert counts["equal"] >= 1200
    assert counts["prints as"] >= 240
    assert counts["erratum"] <= 67
    assert sum(check.metric == "row" for check in CHECKS) >= 260


def test_every_erratum_says_why_and_what_is_right_instead() -> None:
    errata = [check.about for check in CHECKS if check.verdict == "erratum"]
    assert all(about.erratum and about.counted is not None for about in errata)
    told = {(about.model, about.erratum) for about in errata}
    for model, word in (
        ("mobilenet_v1_0.75_192", "TF-slim prints 2.6 % less"),
        ("mobilenet_v1_0.25_192", "30.2 M"),
        ("mobilenet_v1", "the stride is 1"),
        ("mobilenet_v1", "1.91 %"),
        ("mobilenet_v3_large_0.75_224", "torchvision narrows"),
        ("mobilenet_v2_1.4_224", "6.11 M"),
        ("mobilenet_v3_small", "the paper prints 2.5 M"),
        ("mobilenet_v4_conv_large", "2^20"),
        ("mobilenet_v4_hybrid_medium", "Table 13 is another network"),
    ):
        assert any(model == of and word in why for of, why in told), (model, word)


def test_torchvisions_widths_are_exact_by_its_own_rule() -> None:
    exact = {fact.model: fact.value for fact in facts() if "torchvision_0.75" in fact.model and not fact.part}
    assert len(exact) >= 2
    assert not [c for c in CHECKS if "v3_large_torchvision" in c.about.model and c.verdict != "equal"]


def test_segmenters_are_within_a_hundredth_of_the_page_with_elementwise_products() -> None:
    from mobilenets.arch import TaskNetwork, task_cost

    pages = [table for table in tables() if table.name in ("V3 Table 7", "V3 Table 8")]
    of_pages = [fact for page in pages for fact in page.facts if fact.metric == "mult_adds"]
    assert len(of_pages) == 19
    for fact in of_pages:
        network = resolve(fact.model)
        assert isinstance(network, TaskNetwork)
        counted = task_cost(network)
        assert (counted.mult_adds + counted.elementwise) / fact.unit == pytest.approx(fact.value, rel=0.007)


def _verdicts(monkeypatch: pytest.MonkeyPatch, page: str, **changed: object) -> list[str]:
    """The verdicts of a page when what a name stands for is another network."""
    (table,) = (table for table in tables() if table.name == page)
    monkeypatch.setattr("mobilenets.arch.recount.tables", lambda: (table,))
    for name, network in changed.items():
        monkeypatch.setattr(
            "mobilenets.arch.recount.resolve", lambda asked, n=name, w=network: w if asked == n else resolve(asked)
        )
    return [check.verdict for check in verify()]


def _wider(name: str) -> object:
    return with_width(find(name), 1.1)


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("V1 Table 6", "mobilenet_v1"),  # rounded counts
        ("V1 exact counts", "mobilenet_v1"),  # exact ones, whole and by kind
        ("V1 TF-slim docstring", "mobilenet_v1"),  # layer by layer
        ("V1 Table 1", "mobilenet_v1"),  # lines
        ("V2 Table 2", "mobilenet_v2"),
        ("V3 Table 1", "mobilenet_v3_large"),
        ("V4 Table 12", "mobilenet_v4_conv_medium"),
        ("V1 Table 2", "mobilenet_v1"),  # shares
        ("V2 Table 3", "mobilenet_v2"),  # memory
        ("V4 Table 6", "mobilenet_v4_conv_large"),  # an erratum is no excuse for another network
    ],
)
def test_a_wrong_table_is_a_mismatch(page: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mismatch" not in _verdicts(monkeypatch, page)
    assert "mismatch" in _verdicts(monkeypatch, page, **{model: _wider(model)})


@pytest.mark.parametrize("name", ["mobilenet_v2_ssdlite", "v3_table_7_8"])
def test_a_wrong_head_is_a_mismatch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = task_networks()[name]
    wrong = msgspec.structs.replace(network, head=msgspec.structs.replace(network.head, classes=60))
    page = "V2 Table 6" if "ssd" in name else "V3 Table 7"
    assert "mismatch" in _verdicts(monkeypatch, page, **{name: wrong})


def test_one_wrong_cell_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find("mobilenet_v3_large")
    row = spec.rows[4]
    assert isinstance(row, BottleneckRow)
    for field, value in (("kernel", 3), ("act", "hard_swish"), ("squeezed", None), ("stride", 1), ("expanded", 80)):
        rows = (*spec.rows[:4], msgspec.structs.replace(row, **{field: value}), *spec.rows[5:])
        wrong = msgspec.structs.replace(spec, rows=rows)
        assert "mismatch" in _verdicts(monkeypatch, "V3 Table 1", mobilenet_v3_large=wrong), field


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_a_row_too_few_or_too_many_is_a_mismatch(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find("mobilenet_v4_conv_small")
    rows = spec.rows[:-2] + spec.rows[-1:] if change == "missing" else (*spec.rows[:-1], spec.rows[-2], spec.rows[-1])
    wrong = msgspec.structs.replace(spec, rows=rows)
    assert "mismatch" in _verdicts(monkeypatch, "V4 Table 11", mobilenet_v4_conv_small=wrong)


def test_an_erratum_that_is_none_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = cost(find("mobilenet_v1")).parameters
    right = Fact(model="mobilenet_v1", metric="parameters", printed="4.2", unit=1e6, erratum="x", counted=counted)
    stale = msgspec.structs.replace(right, printed="5.0", counted=counted + 1)
    wrong_reading = msgspec.structs.replace(right, printed="5.0", reading=Reading(metric="parameters_folded", unit=1e6))
    true = msgspec.structs.replace(right, printed="5.0")
    page = Table(name="page", about="", source="", facts=(right, stale, wrong_reading, true))
    monkeypatch.setattr("mobilenets.arch.recount.tables", lambda: (page,))
    assert [check.verdict for check in verify()] == ["mismatch", "mismatch", "mismatch", "erratum"]


def test_a_line_that_is_right_has_no_erratum(monkeypatch: pytest.MonkeyPatch) -> None:
    (page,) = (table for table in tables() if table.name == "V1 Table 1")
    excused = msgspec.structs.replace(page.lines[0], erratum="x", counted={"stride": 1})
    monkeypatch.setattr(
        "mobilenets.arch.recount.tables",
        lambda: (msgspec.structs.replace(page, lines=(excused, *page.lines[1:])),),
    )
    assert verify()[0].verdict == "mismatch"


@pytest.mark.parametrize(
    ("printed", "unit", "computed", "agrees"),
    [
        ("569", 1e6, 568_740_352, True),  # rounded
        ("290", 1e6, 290_675_200, True),  # cut off
        ("150", 1e6, 149_497_088, False),  # one up
        ("4.2", 1e6, 4_231_976, True),
        ("4.20", 1e6, 4_231_976, False),  # more digits say more
        ("4.23", 1e6, 4_231_976, True),
        ("4231976", 1, 4_231_976, True),
        ("4231976", 1, 4_231_977, False),
        ("94.86", 0.01, 0.94857, True),
        ("94.86", 0.01, 0.9485, False),
    ],
)
def test_a_number_agrees_as_far_as_its_digits_go(printed: str, unit: float, computed: float, agrees: bool) -> None:
    fact = Fact(model="mobilenet_v1", metric="mult_adds", printed=printed, unit=unit)
    assert fact.agrees(computed) is agrees


def test_facts_are_the_numbers_of_all_tables_and_every_model_is_known() -> None:
    assert facts() == tuple(fact for table in tables() for fact in table.facts)
    for about in (*facts(), *(line for table in tables() for line in table.lines)):
        assert isinstance(about, Fact | Line)
        assert resolve(about.model).name


def test_accuracies_are_those_that_fit_orders_by() -> None:
    top1 = Counter(fact.model.split("_")[1] for fact in facts() if fact.metric == "top1")
    assert top1 == {"v1": 16, "v2": 22, "v3": 21, "v4": 5}
