"""A narrow network is the leading slice of every tensor of a wide one, in every family."""

import msgspec
import pytest
import torch

from making import catalogue
from mobilenets.arch import CATALOG, VARIANTS, ArchSpec, ClassifierHead, ConvRow, Norm, compose, find, with_channels
from mobilenets.arch.narrower import at_resolution, distinct_widths, narrower, width_of
from mobilenets.errors import SpecError
from mobilenets.nets import build, tensors_of
from mobilenets.nets.nested import hollow, places_in


def table(*widths: int) -> ArchSpec:
    return ArchSpec(
        name="mine",
        paper="none",
        rows=tuple(ConvRow(out=width) for width in widths),
        head=ClassifierHead(classes=3),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=16,
    )


@pytest.mark.parametrize("base", catalogue(*CATALOG, *VARIANTS))
@pytest.mark.parametrize("widest", [1.0, 1.4])
def test_every_width_of_a_family_lies_inside_the_widest(base: str, widest: float) -> None:
    wide = compose(base, alpha=widest, classes=7)
    for alpha in (0.25, 0.35, 0.625, widest):
        narrow = narrower(wide, alpha)
        assert narrow.digest == compose(base, alpha=alpha, classes=7).digest
        places = places_in(wide, narrow)
        shapes = {name: tuple(part.stop for part in place) for name, place in places.items()}
        own = {k: tuple(t.shape) for k, t in hollow(narrow).state_dict().items() if "num_batches" not in k}
        assert shapes == own


def test_a_name_is_canonical_at_every_width_and_resolution() -> None:
    wide = find("mobilenet_v2_1.0_32_s8")
    assert narrower(wide, 0.6, resolution=24).name == "mobilenet_v2_0.6_24_s8"
    assert narrower(wide, 0.6, resolution=24) == find("mobilenet_v2_0.6_24_s8")
    assert narrower(wide, 1.0) is wide
    assert narrower(find("mobilenet_v1"), 0.5, resolution=160).name == "mobilenet_v1_0.5_160"


def test_strides_stay_at_every_resolution() -> None:
    wide = compose("mobilenet_v3_small", resolution=32, stride="small")
    for side in range(16, 33, 2):
        assert [row.stride for row in narrower(wide, 0.5, resolution=side).rows] == [row.stride for row in wide.rows]


def test_width_is_counted_from_the_papers_table_and_not_from_the_name_alone() -> None:
    half = find("mobilenet_v2_0.5")
    assert width_of(half) == 0.5
    assert width_of(with_channels(half, 1)) == 0.5
    assert width_of(msgspec.structs.replace(half, padding="same")) == 0.5
    assert width_of(msgspec.structs.replace(half, rows=half.rows[:-1])) == 1.0  # another table under that name
    assert width_of(table(16, 32)) == 1.0


def test_a_table_of_ones_own_is_width_one_and_its_name_tells() -> None:
    own = table(16, 32)
    narrow = narrower(own, 0.5, resolution=12)
    assert (narrow.name, narrow.resolution) == ("mine_0.5_12", 12)
    assert [row.out for row in narrow.rows] == [8, 16]


@pytest.mark.parametrize("begun", ["mobilenet_v1_1.0_96", "mobilenet_v2_0.5", "mobilenet_v3_small_1.0_32_s8"])
def test_a_network_bears_its_name_at_another_resolution_and_is_the_same(begun: str) -> None:
    spec = with_channels(find(begun), 1)
    there = at_resolution(spec, 224)
    assert there == msgspec.structs.replace(spec, resolution=224, name=there.name)
    assert with_channels(find(there.name), 1) == there
    assert at_resolution(there, spec.resolution) == spec


def test_strides_stay_where_no_catalogue_network_has_them() -> None:
    spec = find("mobilenet_v3_small_1.0_32_s16")
    there = at_resolution(spec, 16)
    assert there == msgspec.structs.replace(spec, resolution=16, name="mobilenet_v3_small_1.0_32_s16_16")
    with pytest.raises(SpecError, match="resolution"):
        at_resolution(spec, 0)


def test_a_table_of_ones_own_bears_its_last_resolution_only() -> None:
    own = table(8, 16)
    assert [at_resolution(at_resolution(own, 24), side).name for side in (24, 32)] == ["mine_24", "mine_32"]


def test_a_wider_network_than_there_is_is_refused() -> None:
    with pytest.raises(SpecError, match=r"at most 0\.5"):
        narrower(find("mobilenet_v2_0.5"), 0.75)


def test_widths_that_round_to_one_table_count_once() -> None:
    own = table(16, 32)
    widths = distinct_widths(own, 0.25, 1.0)
    assert widths[0] == 0.25
    assert widths[-1] == 1.0
    tables = [narrower(own, alpha).digest for alpha in widths]
    assert len(set(tables)) == len(tables) < 31


def test_widths_that_do_not_nest_are_refused_by_name() -> None:
    own = table(10, 32)  # rounding to multiples of 8 makes 16 of 9.5
    with pytest.raises(SpecError, match=r"rows.0.conv.conv.weight is \(16, 3, 3, 3\) in mine_0.95"):
        places_in(own, narrower(own, 0.95))


def test_networks_of_two_families_do_not_nest() -> None:
    with pytest.raises(SpecError, match="do not both have"):
        places_in(find("mobilenet_v2"), find("mobilenet_v1"))


def test_the_wide_network_lies_in_itself_whole() -> None:
    own = table(16, 32)
    tensors = tensors_of(build(own))
    assert all(
        torch.equal(torch.from_numpy(tensors[n][p]), torch.from_numpy(tensors[n]))
        for n, p in places_in(own, own).items()
    )
