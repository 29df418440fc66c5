import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from mobilenets.arch import CATALOG, ArchSpec, compose, cost, find
from mobilenets.arch.rows import AttentionRow, BottleneckRow, ConvRow, FusedRow, SeparableRow, UniversalRow
from mobilenets.arch.spec import ClassifierHead, Norm
from mobilenets.errors import FileFormatError, SpecError
from mobilenets.nets import BUILDERS, Network, build, build_row, features, load_tensors, tensors_of
from mobilenets.nets.parts import MultiQueryAttention


def randomise_norms(module: nn.Module) -> None:
    """Give norms statistics, and layer scales factors, that matter, as training does."""
    generator = torch.Generator().manual_seed(7)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) * 0.1)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            part.weight.data.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            part.bias.data.copy_(torch.randn(part.num_features, generator=generator) * 0.1)
        elif type(part).__name__.startswith("LayerScale"):  # ours or timm's
            part.gamma.data.copy_(torch.rand(part.gamma.shape, generator=generator) + 0.5)


def small(base: str, **knobs) -> ArchSpec:
    return compose(base, **{"alpha": 0.25, "resolution": 32, "stride": "small", "classes": 5, **knobs})


@pytest.mark.parametrize("base", sorted(CATALOG))
@pytest.mark.parametrize("alpha", [0.35, 1.0, 1.3])
def test_a_built_network_has_exactly_the_counted_parameters(base: str, alpha: float) -> None:
    spec = compose(base, alpha=alpha)
    with torch.device("meta"):
        network = Network(spec)
    counted = cost(spec)
    assert sum(p.numel() for p in network.parameters()) == counted.parameters
    statistics = [b.numel() for name, b in network.named_buffers() if "running" in name]
    assert sum(statistics) == counted.norm_statistics


@pytest.mark.parametrize("base", sorted(CATALOG))
def test_a_built_network_makes_exactly_the_counted_products(base: str) -> None:
    spec = compose(base, alpha=0.5, resolution=96)
    seen: list[int] = []

    def count(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        weight = module.weight
        seen.append(weight[0].numel() * (output.numel() if output.ndim == 4 else output.shape[-1]))

    def count_attention(_module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        query, key, _ = inputs
        seen.append((query.numel() + output.numel()) * key[0, 0].numel())

    network = build(spec).eval()
    for module in network.modules():
        if isinstance(module, MultiQueryAttention):
            module.register_forward_hook(count_attention)
        if isinstance(module, nn.Linear) or (hasattr(module, "kernel_size") and hasattr(module, "weight")):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 96, 96))
    assert sum(seen) == cost(spec).mult_adds


@pytest.mark.parametrize("kind", list(BUILDERS), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_every_row_type_builds_counts_and_keeps_the_size_rule(kind: type, padding: str) -> None:
    rows = {
        ConvRow: ConvRow(out=8, stride=2),
        SeparableRow: SeparableRow(out=8, kernel=5, stride=2),
        BottleneckRow: BottleneckRow(out=6, expanded=12, squeezed=4, act="hard_swish", stride=2, kernel=5),
        FusedRow: FusedRow(out=8, expanded=24, stride=2),
        UniversalRow: UniversalRow(out=8, expanded=24, start_kernel=3, middle_kernel=5, stride=2, layer_scale=True),
        AttentionRow: AttentionRow(out=8, heads=3, key_width=4, value_width=5, keys_stride=2, layer_scale=True),
    }
    row = rows[kind]
    module = build_row(row, 6, norm=Norm(eps=1e-3, momentum=0.1), padding=padding).eval()
    assert sum(p.numel() for p in module.parameters()) == sum(layer.parameters for layer in row.layers(6))
    for size in (7, 8, 15):
        assert module(torch.zeros(2, 6, size, size)).shape == (2, row.out, *[-(-size // row.stride)] * 2)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    "row",
    [
        ConvRow(out=8, dilation=2),
        SeparableRow(out=8, kernel=5, dilation=4),
        BottleneckRow(out=6, expanded=12, squeezed=4, dilation=2),
        FusedRow(out=8, expanded=24, dilation=3),
        UniversalRow(out=8, expanded=24, start_kernel=3, middle_kernel=5, dilation=2),
        AttentionRow(out=6, heads=2, key_width=4, keys_stride=2, dilation=2),
    ],
    ids=lambda row: type(row).__name__,
)
def test_dilation_keeps_size_and_parameters_and_reaches_further(row, padding: str) -> None:
    torch.manual_seed(1)
    plain = msgspec.structs.replace(row, dilation=1)
    modules = [build_row(r, 6, norm=Norm(eps=1e-3, momentum=0.1), padding=padding).eval() for r in (row, plain)]
    modules[1].load_state_dict(modules[0].state_dict())
    assert row.layers(6) != plain.layers(6)
    assert [layer.weights for layer in row.layers(6)] == [layer.weights for layer in plain.layers(6)]
    images = torch.randn(2, 6, 11, 14)
    with torch.no_grad():
        dilated, dense = (module(images) for module in modules)
    assert dilated.shape == dense.shape
    assert not torch.allclose(dilated, dense)


def test_a_row_type_without_a_builder_is_refused() -> None:
    with pytest.raises(SpecError, match="BUILDERS"):
        build_row("conv", 3, norm=Norm(eps=1e-3, momentum=0.1), padding="same")  # type: ignore[arg-type]


def test_an_unknown_padding_is_refused_and_not_taken_for_the_other_one() -> None:
    row = ConvRow(out=8)
    with pytest.raises(SpecError, match="padding"):
        build_row(row, 3, norm=Norm(eps=1e-3, momentum=0.1), padding="valid")  # type: ignore[arg-type]


def test_tensors_survive_numpy_and_misfits_are_named_with_both_shapes() -> None:
    network, other = build(small("mobilenet_v3_small")), build(small("mobilenet_v3_small"))
    tensors = tensors_of(network)
    load_tensors(other, tensors)
    again = tensors_of(other)
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)
    broken = dict(tensors)
    del broken["rows.0.conv.conv.weight"]
    broken["head.classifier.bias"] = np.zeros(4, np.float32)
    broken["extra"] = np.zeros(1, np.float32)
    with pytest.raises(FileFormatError) as caught:
        load_tensors(other, broken)
    for part in ("missing rows.0.conv.conv.weight", "head.classifier.bias is (4,), the network has (5,)", "extra"):
        assert part in str(caught.value)


def _copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """The tables run in the same order everywhere, so tensors pair up one by one; a shape that differs raises."""
    theirs = [t for name, t in source.state_dict().items() if "num_batches" not in name]
    ours = [t for name, t in target.state_dict().items() if "num_batches" not in name]
    assert len(theirs) == len(ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.numel() == other.numel()
        mine.copy_(other.reshape(mine.shape))


WITNESSES = [
    ("timm", "mobilenetv1_100", "mobilenet_v1", 1e-5, "symmetric"),
    ("timm", "mobilenetv2_050", "mobilenet_v2_0.5_224", 1e-5, "symmetric"),
    ("timm", "mobilenetv3_large_075", "mobilenet_v3_large_0.75_224", 1e-5, "symmetric"),
    ("timm", "mobilenetv3_small_050", "mobilenetv3_small_050", 1e-5, "symmetric"),
    ("timm", "tf_mobilenetv3_large_100", "mobilenet_v3_large", 1e-3, "same"),
    ("timm", "tf_mobilenetv3_small_100", "mobilenet_v3_small", 1e-3, "same"),
    ("timm", "mobilenetv4_conv_small", "mobilenet_v4_conv_small", 1e-5, "symmetric"),
    ("timm", "mobilenetv4_conv_small_050", "mobilenetv4_conv_small_050", 1e-5, "symmetric"),
    ("timm", "mobilenetv4_conv_medium", "mobilenet_v4_conv_medium", 1e-5, "symmetric"),
    ("timm", "mobilenetv4_hybrid_medium", "mobilenet_v4_hybrid_medium", 1e-5, "symmetric"),
    ("timm", "mobilenetv4_hybrid_large", "mobilenet_v4_hybrid_large", 1e-5, "symmetric"),
    ("timm", "mobilenetv4_hybrid_large_075", "mobilenetv4_hybrid_large_075", 1e-5, "symmetric"),
    ("torchvision", "mobilenet_v2", "mobilenet_v2", 1e-5, "symmetric"),
    ("torchvision", "mobilenet_v3_large", "mobilenet_v3_large", 1e-3, "symmetric"),
    ("torchvision", "mobilenet_v3_small", "mobilenet_v3_small", 1e-3, "symmetric"),
]


@pytest.mark.parity
@pytest.mark.parametrize(("library", "theirs", "ours", "eps", "padding"), WITNESSES)
def test_logits_agree_with_another_library(library: str, theirs: str, ours: str, eps: float, padding: str) -> None:
    torch.manual_seed(3)
    if library == "timm":
        timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")
        witness = timm.create_model(theirs, pretrained=False).eval()
    else:
        torchvision = pytest.importorskip("torchvision", reason="torchvision is in the extra [train]")
        witness = getattr(torchvision.models, theirs)(weights=None).eval()
    spec = msgspec.structs.replace(find(ours), padding=padding, norm=Norm(eps=eps, momentum=0.1))
    if theirs == "mobilenetv1_100":  # timm's V1 activates with ReLU6 as the authors' code does
        assert spec.rows[0].act == "relu6"
    randomise_norms(witness)
    network = build(spec).eval()
    with torch.no_grad():
        _copy_by_order(witness, network)
        images = torch.randn(2, 3, 97, 128)
        theirs_said = witness(images)
        # Random norms let the logits of a deep network grow to thousands; float32 is exact to a part of that.
        scale = max(1.0, float(theirs_said.std()))
        torch.testing.assert_close(network(images) / scale, theirs_said / scale, rtol=0, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("theirs", "ours", "final_conv"),
    [
        ("mobilenetv2_050", "mobilenet_v2_0.5_224", False),
        ("mobilenetv3_small_100", "mobilenet_v3_small", True),
        ("mobilenetv4_conv_small", "mobilenet_v4_conv_small", True),
    ],
)
def test_maps_of_a_held_stride_agree_with_timm(theirs: str, ours: str, final_conv: bool, output_stride: int) -> None:
    timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")
    torch.manual_seed(3)
    witness = timm.create_model(theirs, pretrained=False, features_only=True, output_stride=output_stride).eval()
    randomise_norms(witness)
    spec = msgspec.structs.replace(find(ours), norm=Norm(eps=1e-5, momentum=0.1))
    network = features(spec, strides=(4, output_stride), output_stride=output_stride, final_conv=final_conv).eval()
    with torch.no_grad():
        _copy_by_order(witness, network)
        images = torch.randn(2, 3, 97, 128)
        theirs_said, (low, high) = witness(images), network(images).values()
        torch.testing.assert_close(low, theirs_said[1], rtol=0, atol=1e-4)
        scale = max(1.0, float(high.std()))
        torch.testing.assert_close(high / scale, theirs_said[-1] / scale, rtol=0, atol=1e-4)


def test_a_head_without_hidden_layer_has_no_activation_of_its_own() -> None:
    spec = msgspec.structs.replace(small("mobilenet_v2"), head=ClassifierHead(classes=3, act="relu"))
    assert isinstance(build(spec).head.act, nn.Identity)
