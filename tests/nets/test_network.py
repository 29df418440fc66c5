import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from mobilenets.arch import CATALOG, ArchSpec, compose, cost
from mobilenets.arch.rows import AttentionRow, BottleneckRow, ConvRow, FusedRow, SeparableRow, UniversalRow
from mobilenets.arch.spec import ClassifierHead, Norm
from mobilenets.errors import FileFormatError, SpecError
from mobilenets.nets import BUILDERS, Network, build, build_row, load_tensors, tensors_of
from mobilenets.nets.parts import MultiQueryAttention


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


def test_a_head_without_hidden_layer_has_no_activation_of_its_own() -> None:
    spec = msgspec.structs.replace(small("mobilenet_v2"), head=ClassifierHead(classes=3, act="relu"))
    assert isinstance(build(spec).head.act, nn.Identity)


def test_a_step_in_bfloat16_works_on_any_processor() -> None:
    # 64 maps of 32 x 32 x 16 numbers are enough for the fast norm, where the processor has it.
    network = build(small("mobilenet_v3_small", alpha=1.0)).to(memory_format=torch.channels_last).train()
    images = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    logits.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
