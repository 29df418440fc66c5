"""Every published count we hold, recomputed from our tables."""

import pytest

from mobilenets.arch import Fact, cost, facts, find


def _name(fact: Fact) -> str:
    return f"{fact.model}-{fact.metric}-{fact.source}"


@pytest.mark.parametrize("fact", [f for f in facts() if f.erratum is None and f.metric != "top1"], ids=_name)
def test_the_table_counts_to_the_published_number(fact: Fact) -> None:
    computed = getattr(cost(find(fact.model)), fact.metric)
    assert fact.agrees(computed), f"{computed:,} against {fact.value} x {fact.unit:g} from {fact.source}"


@pytest.mark.parametrize("fact", [f for f in facts() if f.erratum], ids=_name)
def test_a_number_called_an_erratum_really_disagrees(fact: Fact) -> None:
    assert not fact.agrees(getattr(cost(find(fact.model)), fact.metric))


def test_there_are_facts_for_every_family_and_both_metrics() -> None:
    found = {(find(f.model).rows[0].act, f.model.split("_")[1][:2], f.metric) for f in facts() if "_" in f.model}
    assert {(version, metric) for _, version, metric in found} >= {
        (version, metric) for version in ("v1", "v2", "v3") for metric in ("parameters", "mult_adds")
    }


def test_v1_table_2_shares_are_recomputed() -> None:
    by_type = cost(find("mobilenet_v1")).by_type()
    total = cost(find("mobilenet_v1")).mult_adds
    shares = {kind: round(100 * entry.mult_adds / total, 2) for kind, entry in by_type.items()}
    # 1.91 where the paper prints 1.19, most likely transposed digits
    assert shares == {"conv": 1.91, "depthwise": 3.06, "pointwise": 94.86, "linear": 0.18}
