import msgspec
import numpy as np
import pytest
import torch

from making import settled_bundle
from mobilenets.arch import CATALOG, ArchSpec, compose, find, with_output_stride
from mobilenets.arch.rows import BottleneckRow, FusedRow, UniversalRow
from mobilenets.errors import FileFormatError, SpecError
from mobilenets.nets import RowTap, build, features, levels, tensors_of

PADDINGS = ["symmetric", "same"]


def small(base: str, **fields) -> ArchSpec:
    spec = compose(base, alpha=0.25, resolution=64, classes=5)
    return msgspec.structs.replace(spec, **fields)


@pytest.mark.parametrize("base", sorted(CATALOG))
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_channels_and_reduction_are_known_before_a_map_is_made(base: str, padding: str, output_stride: int) -> None:
    strides = [stride for stride in (4, 8, 16, 32) if stride <= output_stride]
    network = features(small(base, padding=padding), strides=strides, output_stride=output_stride).eval()
    for height, width in ((64, 64), (51, 78)):
        with torch.no_grad():
            maps = network(torch.zeros(1, 3, height, width))
        assert list(maps) == strides == list(network.channels)
        for level in network.levels:
            told = (1, level.channels, -(-height // level.reduction), -(-width // level.reduction))
            assert maps[level.reduction].shape == told


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("side", [128, 113])
@pytest.mark.parametrize(
    "base",
    ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium"],
)
def test_the_held_map_at_the_old_stride_is_the_strided_map(
    base: str, side: int, padding: str, output_stride: int
) -> None:
    spec = small(base, padding=padding)
    rows = [msgspec.structs.replace(r, squeezed=None) if isinstance(r, BottleneckRow) else r for r in spec.rows]
    bundle = settled_bundle(msgspec.structs.replace(spec, rows=tuple(rows)))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        strided = features(bundle, strides=[32]).eval()(images)[32]
        held = features(bundle, strides=[output_stride], output_stride=output_stride).eval()(images)[output_stride]
    # SAME padding puts the odd pixel at the end, so the middle of a strided kernel lies on pixel 1 of an even side.
    first = 0
    for stride in (16, 32):
        if stride > output_stride and padding == "same" and -(-side * 2 // stride) % 2 == 0:
            first += stride // 2 // output_stride
    step = 32 // output_stride
    held = held[..., first::step, first::step]
    assert strided.std() > 0.1
    torch.testing.assert_close(held, strided, rtol=0, atol=1e-4 * float(strided.abs().max()))


def test_the_rows_that_gave_up_a_stride_get_no_shortcut_from_it() -> None:
    spec = compose("mobilenet_v2", alpha=0.1)  # so narrow that rows of stride 2 have as many outputs as inputs
    held = with_output_stride(spec, 8)
    turned = [p for p, q in zip(held.placed(), spec.placed(), strict=True) if p.row.stride != q.row.stride]
    assert any(p.in_channels == p.row.out for p in turned)
    assert not any(p.row.residual(p.in_channels) for p in turned)


def test_ssdlite_reads_the_expansion_of_bottleneck_13_and_9_at_stride_16() -> None:
    for base, bottleneck, channels in (("mobilenet_v3_large", 13, 672), ("mobilenet_v3_small", 9, 288)):
        fine, coarse = levels(find(base), strides=(16, 32), tap="expansion")
        assert (fine.row, fine.channels, fine.reduction, fine.tap) == (bottleneck, channels, 16, "expansion")
        assert (coarse.tap, coarse.row) == ("output", len(find(base).rows) - 1)
    assert levels(find("mobilenet_v2"), strides=(16,), tap="expansion")[0].channels == 576


@pytest.mark.parametrize("base", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_medium"])
def test_an_expansion_is_what_the_expanding_layer_of_that_row_gives(base: str) -> None:
    network = features(small(base), strides=(32, 16), tap="expansion").eval()
    (at,) = (level.row for level in network.levels if level.tap == "expansion")
    seen = []
    network.rows[at].expand.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        maps = network(torch.randn(2, 3, 64, 64))
    assert list(maps) == [32, 16]
    assert torch.equal(maps[16], seen[0])
    assert maps[16].shape == (2, network.channels[16], 4, 4)


def test_any_row_can_be_tapped_as_torchvision_and_deeplab_do() -> None:
    # LR-ASPP in torchvision reads the first row of stride 8; in DeepLab, the depthwise convolution inside the last one
    held = {"strides": (RowTap(4), 16), "output_stride": 16}
    network = features(find("mobilenet_v3_large"), **held).eval()
    assert network.channels == {8: 40, 16: 960}
    tapped = features(find("mobilenet_v3_large"), strides=(RowTap(6, "depthwise"),)).eval()
    seen = []
    tapped.rows[6].excite.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64))[8].shape == (1, 40, 8, 8)
        maps = tapped(torch.randn(1, 3, 64, 64))
    assert tapped.channels == {8: 120}
    assert torch.equal(maps[8], seen[0])


def test_the_last_map_can_be_the_one_before_the_widening_convolution() -> None:
    assert levels(find("mobilenet_v2"), strides=(32,))[0].channels == 1280
    assert levels(find("mobilenet_v2"), strides=(32,), final_conv=False)[0].channels == 320
    assert levels(find("mobilenet_v1"), strides=(32,), final_conv=False)[0].channels == 1024


def test_a_bundle_gives_its_own_weights_and_rows_behind_the_last_map_are_not_built() -> None:
    bundle = settled_bundle(small("mobilenet_v2"))
    network = features(bundle, strides=(4, 8))
    whole = build(bundle.spec)
    assert len(network.rows) < len(whole.rows)
    own = tensors_of(network)
    assert own
    assert all(np.array_equal(own[name], bundle.tensors[name]) for name in own)


def test_features_can_be_trained() -> None:
    network = features(small("mobilenet_v2"), strides=(8, 16), output_stride=16)
    sum(value.square().mean() for value in network(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.ndim == 4)


def test_tensors_that_do_not_fit_are_named() -> None:
    bundle = settled_bundle(small("mobilenet_v1"))
    del bundle.tensors["rows.1.depthwise.conv.weight"]
    with pytest.raises(FileFormatError, match=r"rows\.1\.depthwise\.conv\.weight"):
        features(bundle, strides=(8,))


@pytest.mark.parametrize(
    ("base", "asked", "says"),
    [
        ("mobilenet_v2", {"strides": (64,)}, r"no map at stride 64; one of 2, 4, 8, 16, 32"),
        ("mobilenet_v2", {"strides": (32,), "output_stride": 16}, "one of 2, 4, 8, 16;"),
        ("mobilenet_v2", {"strides": ()}, "at least one"),
        ("mobilenet_v2", {"strides": (8, 8)}, "each once"),
        ("mobilenet_v2", {"strides": (8,), "output_stride": 12}, "8, 16 or 32"),
        ("mobilenet_v2", {"strides": (8,), "tap": "middle"}, "'output' or 'expansion'"),
        ("mobilenet_v1", {"strides": (16,), "tap": "expansion"}, "row 12 of .* has no expansion at stride 16"),
        ("mobilenet_v2", {"strides": (8, RowTap(5))}, r"strides are \[8, 8\]; at least one, each once"),
        ("mobilenet_v2", {"strides": (RowTap(19),)}, "from 0 to 18"),
        ("mobilenet_v2", {"strides": (RowTap(0, "depthwise"),)}, "row 0 of mobilenet_v2 has no depthwise"),
        ("mobilenet_v2", {"strides": (RowTap(1, "expansion"),)}, "row 1 of mobilenet_v2 has no expansion"),
        ("mobilenet_v4_conv_medium", {"strides": (2,), "tap": "expansion"}, "no expansion at stride 2"),
    ],
)
def test_a_map_that_is_not_there_is_refused_with_those_that_are(base: str, asked: dict, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        features(find(base), **asked)


def test_a_universal_row_that_strides_at_its_start_has_no_expansion_to_tap() -> None:
    spec = small("mobilenet_v4_conv_small")
    rows = (FusedRow(out=8, expanded=8), UniversalRow(out=8, expanded=16, start_kernel=3, stride=2))
    with pytest.raises(SpecError, match=r"row 1 of .* has no expansion at stride 1"):
        levels(msgspec.structs.replace(spec, rows=rows), strides=(1,), tap="expansion")
