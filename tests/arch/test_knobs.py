import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import (
    CATALOG,
    VARIANTS,
    ArchSpec,
    BottleneckRow,
    compose,
    cost,
    deeper,
    find,
    for_small_images,
    full_convolutions,
    make_divisible,
    reduced_tail,
    shallow,
    with_channels,
    with_classes,
    with_output_stride,
    with_resolution,
    with_width,
)
from mobilenets.arch.rows import AttentionRow
from mobilenets.errors import SpecError

ALPHAS = st.floats(0.1, 2.0).map(lambda a: round(a, 3))
BASES = st.sampled_from(sorted(CATALOG))


def test_shallow_matches_table_5_of_v1() -> None:
    counted = cost(shallow(find("mobilenet_v1")))
    assert (counted.parameters, counted.mult_adds) == (2_887_976, 307_323_392)


def test_full_convolutions_match_table_4_of_v1() -> None:
    counted = cost(full_convolutions(find("mobilenet_v1")))
    assert (counted.parameters, counted.mult_adds) == (29_294_088, 4_867_293_184)


def test_the_variants_of_v1_are_known_by_name_with_alpha_and_resolution() -> None:
    assert find("mobilenet_v1_shallow").rows == shallow(find("mobilenet_v1")).rows
    assert find("mobilenet_v1_full_convolutions").rows == full_convolutions(find("mobilenet_v1")).rows
    narrow = find("mobilenet_v1_shallow_0.75_160")
    assert narrow.rows == shallow(with_width(find("mobilenet_v1"), 0.75)).rows
    assert narrow.resolution == 160


@pytest.mark.parametrize(("base", "first"), [("mobilenet_v3_large", 13), ("mobilenet_v3_small", 9)])
def test_a_reduced_tail_halves_the_outputs_that_tf_slim_halves(base: str, first: int) -> None:
    whole, reduced = find(base), find(f"{base}_reduced_tail")
    assert reduced.rows[:first] == whole.rows[:first]
    assert [row.out * 2 for row in reduced.rows[first:]] == [row.out for row in whole.rows[first:]]
    assert reduced.rows[first].expanded == whole.rows[first].expanded  # what SSDLite reads at stride 16
    assert [row.expanded * 2 for row in reduced.rows[first + 1 : -1]] == [
        r.expanded for r in whole.rows[first + 1 : -1]
    ]
    assert reduced.head.hidden * 2 == whole.head.hidden


def test_minimalistic_v3_has_no_squeeze_and_excite_hard_swish_or_wide_kernel() -> None:
    for base, parameters in (("mobilenet_v3_large", 3_924_288), ("mobilenet_v3_small", 2_044_736)):
        spec = find(f"{base}_minimalistic")
        assert cost(spec).parameters == parameters
        assert {row.act for row in spec.rows} | {spec.head.act} == {"relu"}
        assert {row.kernel for row in spec.rows} == {1, 3}
        assert not any(row.squeezed for row in spec.rows if isinstance(row, BottleneckRow))


def test_torchvision_narrows_v3_by_a_rule_of_its_own() -> None:
    for base, paper, theirs in (
        ("mobilenet_v3_large", 3_993_528, 3_377_576),
        ("mobilenet_v3_small", 2_041_872, 1_653_920),
    ):
        assert cost(find(f"{base}_0.75_224")).parameters == paper
        assert cost(find(f"{base}_torchvision_0.75_224")).parameters == theirs
        assert find(f"{base}_torchvision").rows == find(base).rows


def test_torchvision_has_no_rule_of_its_own_for_v1() -> None:
    with pytest.raises(SpecError, match=r"row 1 of mobilenet_v1 is a SeparableRow"):
        with_width(find("mobilenet_v1"), 0.5, rule="torchvision")
    with pytest.raises(SpecError, match="'paper' or 'torchvision'"):
        with_width(find("mobilenet_v1"), 0.5, rule="keras")  # type: ignore[arg-type]


def test_deeper_repeats_the_last_row_of_every_stage_but_the_first_and_last() -> None:
    def stages(spec: ArchSpec) -> list[int]:
        outs = [row.out for row in spec.rows[1:-1]]
        return [outs.count(out) for out in dict.fromkeys(outs)]

    assert stages(find("mobilenet_v2")) == [1, 2, 3, 4, 3, 3, 1]
    assert stages(deeper(find("mobilenet_v2"), 1.2)) == [1, 3, 4, 5, 4, 4, 1]
    assert stages(deeper(find("mobilenet_v2"), 1.4)) == [1, 3, 5, 6, 5, 5, 1]
    assert deeper(find("mobilenet_v2"), 1.0).rows == find("mobilenet_v2").rows
    with pytest.raises(SpecError, match="at least 1"):
        deeper(find("mobilenet_v2"), 0.5)
    with pytest.raises(SpecError, match="stages of bottlenecks"):
        deeper(find("mobilenet_v1"), 1.2)


def test_a_reduced_tail_of_v1_is_refused() -> None:
    with pytest.raises(SpecError, match="start from mobilenet_v3_large"):
        reduced_tail(find("mobilenet_v1"))


@pytest.mark.parametrize("knob", [shallow, full_convolutions])
def test_a_knob_of_v1_refuses_v2_and_names_the_remedy(knob) -> None:
    with pytest.raises(SpecError, match="start from mobilenet_v1"):
        knob(find("mobilenet_v2"))


@given(value=st.floats(1, 4000))
def test_make_divisible_gives_multiples_of_8_never_below_90_percent(value: float) -> None:
    rounded = make_divisible(value)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * value
    assert abs(rounded - value) <= 8


@given(base=BASES, alpha=ALPHAS)
def test_any_width_in_range_keeps_the_shape_of_the_table(base: str, alpha: float) -> None:
    spec, scaled = find(base), with_width(find(base), alpha)
    assert [type(r) for r in scaled.rows] == [type(r) for r in spec.rows]
    assert [r.stride for r in scaled.rows] == [r.stride for r in spec.rows]
    for row in scaled.rows:
        if isinstance(row, BottleneckRow) and row.squeezed:
            assert row.squeezed % 8 == 0


@given(base=BASES, low=ALPHAS, high=ALPHAS)
def test_wider_never_costs_less(base: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    narrow, wide = cost(with_width(find(base), low)), cost(with_width(find(base), high))
    # the 90 % rule can lift a narrow expansion past a wider one by one multiple of 8, so equality is not strict
    assert narrow.mult_adds <= wide.mult_adds * 1.1


def test_v1_widths_are_floored_and_at_least_8() -> None:
    widths = [row.out for row in with_width(find("mobilenet_v1"), 0.13).rows]
    assert widths[:3] == [8, 8, 16]
    assert widths[-1] == 133


def test_the_last_layer_of_v2_never_goes_below_1280() -> None:
    assert with_width(find("mobilenet_v2"), 0.35).rows[-1].out == 1280
    assert with_width(find("mobilenet_v2"), 1.4).rows[-1].out == 1792


def test_the_hidden_layer_of_v3_grows_but_does_not_shrink() -> None:
    assert with_width(find("mobilenet_v3_large"), 0.5).head.hidden == 1280
    assert with_width(find("mobilenet_v3_large"), 1.25).head.hidden == 1600


@pytest.mark.parametrize("alpha", [0.0, 0.09, 2.01, -1.0, float("nan")])
def test_a_width_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(SpecError, match=r"0\.1 to 2"):
        with_width(find("mobilenet_v2"), alpha)


@pytest.mark.parametrize("base", sorted(CATALOG))
@pytest.mark.parametrize("resolution", [28, 32, 36, 48, 64])
def test_small_images_keep_a_last_map_of_at_least_4x4(base: str, resolution: int) -> None:
    spec = for_small_images(with_resolution(find(base), resolution))
    last = list(spec.placed())[-1]
    assert last.out_size >= 4
    # and no stride more than needed was turned off
    turned = [i for i, (a, b) in enumerate(zip(find(base).rows, spec.rows, strict=True)) if a.stride != b.stride]
    strided = [i for i, row in enumerate(find(base).rows) if row.stride == 2]
    order = strided[:1] + strided[:0:-1]  # the stem, then from the end
    assert sorted(order[: len(turned)]) == turned
    if turned:
        fewer = list(spec.rows)
        last = order[len(turned) - 1]
        fewer[last] = msgspec.structs.replace(fewer[last], stride=2)
        assert list(msgspec.structs.replace(spec, rows=tuple(fewer)).placed())[-1].out_size < 4


def test_small_images_leave_a_large_input_alone() -> None:
    assert for_small_images(find("mobilenet_v2")) == find("mobilenet_v2")


def test_resolution_changes_mult_adds_and_not_parameters() -> None:
    full, low = cost(find("mobilenet_v1")), cost(with_resolution(find("mobilenet_v1"), 128))
    assert full.parameters == low.parameters
    assert low.mult_adds < full.mult_adds / 3


def test_classes_and_channels_touch_one_layer_each() -> None:
    spec = find("mobilenet_v2")
    assert cost(spec).parameters - cost(with_classes(spec, 10)).parameters == 990 * 1281
    assert cost(spec).parameters - cost(with_channels(spec, 1)).parameters == 2 * 32 * 9


def test_knobs_leave_their_input_alone() -> None:
    spec = find("mobilenet_v3_small")
    before = spec.digest
    with_width(spec, 0.5), with_resolution(spec, 96), with_classes(spec, 3), for_small_images(spec)
    assert spec.digest == before == find("mobilenet_v3_small").digest


@given(base=st.sampled_from([*CATALOG, *VARIANTS]), alpha=ALPHAS, resolution=st.integers(28, 320), small=st.booleans())
def test_a_composed_name_finds_the_same_network(base: str, alpha: float, resolution: int, small: bool) -> None:
    spec = compose(base, alpha=alpha, resolution=resolution, stride="small" if small else None)
    assert find(spec.name) == spec


@pytest.mark.parametrize(
    ("output_stride", "rates"), [(32, [1] * 17), (16, [1] * 14 + [2] * 3), (8, [1] * 7 + [2] * 7 + [4] * 3)]
)
def test_holding_the_stride_of_v2_dilates_the_rows_behind_it(output_stride: int, rates: list[int]) -> None:
    held = with_output_stride(find("mobilenet_v2"), output_stride)
    assert [row.dilation for row in held.rows if isinstance(row, BottleneckRow)] == rates
    assert held.rows[-1].dilation == 1  # a kernel of one pixel has nothing between its taps
    assert list(held.placed())[-1].reduction == output_stride


@given(base=BASES, alpha=ALPHAS, output_stride=st.sampled_from([8, 16, 32]))
def test_a_held_stride_keeps_parameters_and_products_per_pixel(base: str, alpha: float, output_stride: int) -> None:
    spec = with_resolution(with_width(find(base), alpha), 64)
    held = with_output_stride(spec, output_stride)
    assert cost(held).parameters == cost(spec).parameters
    for one, other in zip(cost(held).layers, cost(spec).layers, strict=True):
        if one.layer.kind == "attention":
            continue  # every pixel attends to all of them, so more pixels cost more each
        assert one.mult_adds * other.out_size**2 == other.mult_adds * one.out_size**2
    assert with_output_stride(held, output_stride).rows == held.rows


@pytest.mark.parametrize("output_stride", [0, 4, 12, 64, None])
def test_another_output_stride_is_refused(output_stride: object) -> None:
    with pytest.raises(SpecError, match="8, 16 or 32"):
        with_output_stride(find("mobilenet_v2"), output_stride)  # type: ignore[arg-type]


@given(alpha=ALPHAS)
def test_an_attention_keeps_its_heads_and_key_widths_at_any_width(alpha: float) -> None:
    def shapes(spec: ArchSpec) -> list[tuple[int, int, int]]:
        return [(r.heads, r.key_width, r.value_width) for r in spec.rows if isinstance(r, AttentionRow)]

    assert shapes(with_width(find("mobilenet_v4_hybrid_large"), alpha)) == shapes(find("mobilenet_v4_hybrid_large"))
