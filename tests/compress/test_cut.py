"""Widths that are tied are cut together: what a network answers does not depend on the order of its channels, nor on
channels that are zero."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.tables import TABLES, any_table, dropped, some_kept, table
from making import settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, ConvRow, compose, cost, find, with_resolution, with_width
from mobilenets.compress import cut, selections, widths
from mobilenets.compress.widths import axes, wiring
from mobilenets.errors import FileFormatError, SpecError, UnknownNameError
from mobilenets.nets import build, load_tensors, tensors_of

NAMES = (
    "mobilenet_v1_0.25",
    "mobilenet_v2_0.35",
    "mobilenet_v3_large_0.35",
    "mobilenet_v3_small_0.35",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_hybrid_medium",
    "mobilenet_v4_hybrid_large",
)


def catalogue(name: str) -> ArchSpec:
    spec = find(name)
    return with_resolution(with_width(spec, 0.25) if "v4" in name else spec, 32)


def answers(spec: ArchSpec, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Logits in float64, where the order of additions does not show."""
    network = build(ArchSpec.from_json(spec.to_json()))
    load_tensors(network, tensors)
    images = torch.randn(3, spec.channels, spec.resolution, spec.resolution, generator=torch.manual_seed(1))
    with torch.no_grad():
        return network.double().eval()(images.double()).numpy()


def without(spec: ArchSpec, tensors: dict[str, np.ndarray], kept: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The wide tensors with zeros wherever a dropped unit has a part, but in variances, which may not be zero."""
    zeroed = {name: tensor.copy() for name, tensor in tensors.items()}
    for width in widths(spec):
        for place in width.places:
            if not place.tensor.endswith("running_var"):
                tensor = np.moveaxis(zeroed[place.tensor], place.axis, 0)
                units = tensor.reshape(place.times, width.size, place.block, *tensor.shape[1:])
                assert np.shares_memory(units, zeroed[place.tensor])
                units[:, dropped(width, kept)] = 0.0
    return zeroed


def check_order_does_not_matter(spec: ArchSpec, rng: np.random.Generator) -> None:
    bundle = settled_bundle(spec)
    shuffled = {width.name: rng.permutation(width.size) for width in widths(spec)}
    same, tensors = cut(spec, bundle.tensors, shuffled)
    assert same == spec
    np.testing.assert_allclose(answers(same, tensors), answers(spec, bundle.tensors), rtol=1e-5, atol=1e-5)


def check_zeros_are_not_missed(spec: ArchSpec, rng: np.random.Generator) -> None:
    kept = some_kept(spec, rng)
    zeroed = without(spec, settled_bundle(spec).tensors, kept)
    narrow, tensors = cut(spec, zeroed, kept)
    np.testing.assert_allclose(answers(narrow, tensors), answers(spec, zeroed), rtol=1e-5, atol=1e-5)
    if any(len(kept[w.name]) < w.size for w in widths(spec) if w.name in kept):
        assert cost(narrow).parameters < cost(spec).parameters


@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_channels_in_another_order_give_the_same_answers(spec: ArchSpec) -> None:
    check_order_does_not_matter(spec, np.random.default_rng(0))


@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES)
def test_channels_that_are_zero_are_not_missed(spec: ArchSpec) -> None:
    for seed in range(5):
        check_zeros_are_not_missed(spec, np.random.default_rng(seed))


@settings(max_examples=40)
@given(spec=any_table(), seed=st.integers(0, 2**32))
def test_any_table_can_be_cut_and_built_and_answers_alike(spec: ArchSpec, seed: int) -> None:
    check_order_does_not_matter(spec, np.random.default_rng(seed))
    check_zeros_are_not_missed(spec, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_the_axes_of_every_tensor_of_the_catalogue_multiply_to_its_shape(name: str) -> None:
    spec = catalogue(name)
    sizes = {width.name: width.size for width in widths(spec)}
    tensors = tensors_of(build(spec))
    own = axes(spec)
    assert own.keys() == tensors.keys()
    for tensor, found in own.items():
        shape = [int(np.prod([f if isinstance(f, int) else sizes[f] for f in axis])) for axis in found]
        assert tuple(shape) == tensors[tensor].shape, tensor
    assert [wired.layer for wired in wiring(spec)] == [entry.layer for entry in cost(spec).layers]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_catalogue_are_cut_exactly(name: str) -> None:
    check_order_does_not_matter(catalogue(name), np.random.default_rng(0))
    check_zeros_are_not_missed(catalogue(name), np.random.default_rng(0))


def test_rows_that_are_added_share_one_width_with_the_row_before_them() -> None:
    found = {width.name: width for width in widths(compose("mobilenet_v2", alpha=1.0))}
    assert found["rows.2.out"].fields == ("rows.2.out", "rows.3.out")
    assert found["rows.4.out"].fields == ("rows.4.out", "rows.5.out", "rows.6.out")
    assert "rows.3.out" not in found
    assert found["rows.0.out"].size == 32
    assert "rows.1.expanded" not in found
    assert {place.tensor for place in found["rows.0.out"].places if place.role == "carries"} >= {
        "rows.0.conv.norm.running_var",
        "rows.1.depthwise.conv.weight",
        "rows.1.depthwise.norm.weight",
    }
    readers = [place.tensor for place in found["rows.4.out"].places if place.role == "reads"]
    assert readers == [f"rows.{row}.expand.conv.weight" for row in (5, 6, 7)]


def test_squeeze_and_excite_ties_its_ends_to_the_expansion_and_has_a_width_of_its_own() -> None:
    found = {width.name: width for width in widths(TABLES["squeeze-and-excite"])}
    places = {(place.tensor, place.axis, place.role) for place in found["rows.2.expanded"].places}
    assert {
        ("rows.2.excite.squeeze.weight", 1, "reads"),
        ("rows.2.excite.excite.weight", 0, "makes"),
        ("rows.2.excite.excite.bias", 0, "carries"),
    } < places
    assert [(place.tensor, place.axis) for place in found["rows.2.squeezed"].places] == [
        ("rows.2.excite.squeeze.weight", 0),
        ("rows.2.excite.squeeze.bias", 0),
        ("rows.2.excite.excite.weight", 1),
    ]


def test_heads_go_as_a_whole_and_the_width_of_keys_stays() -> None:
    spec = TABLES["attention"]
    narrow, tensors = cut(spec, settled_bundle(spec).tensors, {"rows.1.heads": [2, 0], "rows.1.value_width": [1, 5]})
    row = narrow.rows[1]
    assert (row.heads, row.key_width, row.value_width) == (2, 4, 2)
    assert tensors["rows.1.query.conv.weight"].shape == (2 * 4, 8, 1, 1)
    chosen = selections(spec, {"rows.1.heads": [2, 0], "rows.1.value_width": [1, 5]})
    assert chosen["rows.1.query.conv.weight"][0].tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert chosen["rows.1.project.conv.weight"][1].tolist() == [13, 17, 1, 5]


def test_widths_that_meet_by_accident_are_not_added() -> None:
    spec = table(ConvRow(out=8), BottleneckRow(out=6, expanded=10), ConvRow(out=6))
    narrow, _ = cut(spec, settled_bundle(spec).tensors, {"rows.0.out": range(6)})
    assert (narrow.rows[0].out, narrow.rows[1].out, narrow.rows[1].shortcut) == (6, 6, False)
    tied = table(ConvRow(out=8), BottleneckRow(out=8, expanded=10), ConvRow(out=6))
    narrow, _ = cut(tied, settled_bundle(tied).tensors, {"rows.0.out": range(6)})
    assert (narrow.rows[1].out, narrow.rows[1].shortcut) == (6, True)


def test_what_is_added_to_the_image_keeps_its_width() -> None:
    assert [width.name for width in widths(TABLES["added to the image"])] == [
        "rows.0.expanded",
        "rows.1.out",
        "rows.2.out",
    ]


def test_wrong_choices_say_what_is_wrong() -> None:
    spec = TABLES["bottleneck"]
    tensors = settled_bundle(spec).tensors
    with pytest.raises(UnknownNameError, match=r"rows\.2\.expanded"):
        cut(spec, tensors, {"rows.2.expand": [0]})
    for units in ([], [0, 0], [12], [-1], [0.5]):
        with pytest.raises(SpecError, match=r"rows\.2\.expanded, which has 12"):
            cut(spec, tensors, {"rows.2.expanded": units})
    other = {name: tensor for name, tensor in tensors.items() if name != "head.classifier.bias"}
    with pytest.raises(FileFormatError, match=r"head\.classifier\.bias is missing; \(5,\)"):
        cut(spec, other, {})
    wide = settled_bundle(msgspec.structs.replace(spec, channels=1)).tensors
    with pytest.raises(FileFormatError, match=r"rows\.0\.conv\.conv\.weight is \(6, 1, 3, 3\)"):
        cut(spec, wide, {})
