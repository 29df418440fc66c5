import pytest

from mobilenets.arch import AttentionRow, UniversalRow, cost, find


@pytest.mark.parametrize(
    ("name", "parameters", "conv_and_linear", "attention"),
    [
        # conv and linear products as counted over timm's networks; attention products by hand:
        # Hybrid-M at 256: 4 x (256 x 64 + 64 x 64 queries by keys) x 4 heads x (64 + 64)
        ("mobilenet_v4_hybrid_medium", 11_074_648, 1_229_240_320, 41_943_040),
        ("mobilenet_v4_hybrid_large", 37_764_624, 7_372_138_496, 339_738_624),
        ("mobilenetv4_hybrid_medium_075", 7_313_528, 815_989_760, 41_943_040),
        ("mobilenetv4_hybrid_large_075", 22_754_984, 4_427_780_096, 339_738_624),
    ],
)
def test_hybrids_count_like_the_released_ones(name: str, parameters: int, conv_and_linear: int, attention: int) -> None:
    counted = cost(find(name))
    assert counted.parameters == parameters
    assert counted.attention_mult_adds == attention == counted.by_type()["attention"].mult_adds
    assert counted.mult_adds == conv_and_linear + attention


def test_the_attention_of_hybrid_m_counts_queries_times_keys_twice() -> None:
    assert 4 * (16 * 16 * 8 * 8 + 8 * 8 * 8 * 8) * 4 * (64 + 64) == 41_943_040


def test_table_6_prints_the_hybrids_with_their_attention() -> None:
    # The table counts in units of 2^30: 1.184 and 7.182 with the attention, 1.145 and 6.866 without.
    for name, printed in (("mobilenet_v4_hybrid_medium", 1.2), ("mobilenet_v4_hybrid_large", 7.2)):
        counted = cost(find(name))
        assert round(counted.mult_adds / 2**30, 1) == printed
        assert round((counted.mult_adds - counted.attention_mult_adds) / 2**30, 1) != printed


def test_hybrid_m_as_printed_is_another_network_than_the_released_one() -> None:
    printed, released = find("mobilenet_v4_hybrid_medium_paper"), find("mobilenet_v4_hybrid_medium")
    assert cost(printed).parameters == 11_170_008
    assert printed.digest != released.digest
    assert sum(isinstance(row, AttentionRow) for row in printed.rows) == 8


def test_only_hybrids_have_layer_scales() -> None:
    for name in ("mobilenet_v4_conv_medium", "mobilenet_v4_hybrid_medium", "mobilenet_v4_hybrid_large"):
        scaled = {row.layer_scale for row in find(name).rows if isinstance(row, UniversalRow | AttentionRow)}
        assert scaled == {"hybrid" in name}


def test_attention_memory_holds_the_scores() -> None:
    entries = [e for e in cost(find("mobilenet_v4_hybrid_medium")).layers if e.layer.kind == "attention"]
    queries, keys = 16 * 16, 8 * 8
    assert entries[0].activations == queries * 256 + keys * (64 + 64) + 4 * queries * keys + queries * 256
