"""Claims about the full convolution with its own weight gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mobilenets.arch import ArchSpec, ClassifierHead, ConvRow, FusedRow, Norm, compose
from mobilenets.nets import FullConv2d, build, eager, full

NORM = Norm(eps=1e-5, momentum=0.1)
SHAPES = [
    # before, after, kernel, stride, height, width
    (96, 64, 1, 1, 8, 8),
    (64, 128, 1, 1, 7, 5),
    (512, 16, 1, 1, 4, 4),
    (80, 320, 1, 1, 1, 2),
    (24, 40, 3, 1, 4, 4),
    (24, 40, 3, 1, 7, 5),
    (24, 40, 3, 2, 8, 8),
    (24, 40, 3, 2, 9, 7),
    (24, 40, 3, 2, 7, 9),
    (24, 40, 3, 3, 8, 10),
    (16, 24, 5, 1, 6, 6),
    (16, 24, 5, 2, 6, 9),
    (16, 24, 7, 2, 12, 5),
    (16, 24, 3, 1, 1, 1),
    (16, 24, 5, 2, 2, 2),
]


@pytest.fixture(autouse=True)
def _avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "processor_kind", lambda: "AVX2")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, wherever it could be."""
    monkeypatch.setattr(full, "_is_slow", lambda *_: True)


def images_of(channels: int, height: int, width: int, *, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, channels, height, width, generator=generator)
    return images.contiguous(memory_format=torch.channels_last).requires_grad_()


def own(outputs: Tensor) -> bool:
    return "_FullConv2d" in str(outputs.grad_fn)


def layer_of(before: int, after: int, kernel: int = 1, stride: int = 1) -> FullConv2d:
    return FullConv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("before", "after", "kernel", "stride", "height", "width"), SHAPES)
@pytest.mark.parametrize("count", [1, 5, 6, 16])
def test_gradients_match_float64(
    before: int, after: int, kernel: int, stride: int, height: int, width: int, count: int
) -> None:
    layer, images = layer_of(before, after, kernel, stride), images_of(before, height, width, count=count)
    outputs = layer(images)
    assert own(outputs)
    signal = torch.randn_like(outputs)
    found = torch.autograd.grad(outputs, (images, layer.weight), signal)
    weight, exact = layer.weight.detach().double().requires_grad_(), images.detach().double().requires_grad_()
    again = nn.functional.conv2d(exact, weight, None, stride, kernel // 2)
    assert outputs.shape == again.shape
    wanted = torch.autograd.grad(again, (exact, weight), signal.double())
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert float((mine.double() - theirs).norm() / theirs.norm()) < 1e-6


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_gradients_under_autocast_are_as_close_as_the_stock_ones(kernel: int, stride: int) -> None:
    images, layer = images_of(32, 8, 8, count=16), layer_of(32, 48, kernel, stride)
    stock = nn.Conv2d(32, 48, kernel, stride, kernel // 2, bias=False).to(memory_format=torch.channels_last)
    stock.load_state_dict(layer.state_dict())
    exact = nn.Conv2d(32, 48, kernel, stride, kernel // 2, bias=False).double()
    exact.load_state_dict(layer.state_dict())
    signal = torch.randn(exact(images.detach().double()).shape).bfloat16()
    exact(images.detach().double()).backward(signal.double())
    assert exact.weight.grad is not None
    off = []
    for module in (layer, stock):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = module(images.detach())
        assert outputs.dtype == torch.bfloat16
        assert own(outputs) == (module is layer)
        outputs.backward(signal)
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == torch.float32
        off.append(float((module.weight.grad.double() - exact.weight.grad).norm() / exact.weight.grad.norm()))
    assert off[0] < max(1.5 * off[1], 1e-2)


def test_a_gradient_in_another_layout_is_taken_too() -> None:
    layer, images = layer_of(64, 64), images_of(64, 6, 6)
    signal = torch.randn(6, 64, 6, 6)
    layer(images).backward(signal)
    nn.functional.conv2d(images.detach(), again := layer.weight.detach().clone().requires_grad_()).backward(signal)
    torch.testing.assert_close(layer.weight.grad, again.grad, rtol=1e-5, atol=1e-4)


def test_the_forward_pass_has_the_bits_of_the_stock_convolution_and_frozen_weights_are_its_own() -> None:
    layer, images = layer_of(64, 96), images_of(64, 8, 8)
    assert torch.equal(layer(images), nn.functional.conv2d(images, layer.weight))
    assert own(layer(images.detach()))  # the first layer of what is learned
    layer.weight.requires_grad_(False)
    assert not own(layer(images))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_one_pixel_it_is_a_matrix_product_in_training(bias: bool, dtype: torch.dtype) -> None:
    layer, images = FullConv2d(40, 24, 1, bias=bias), images_of(40, 1, 1)
    exact = nn.Conv2d(40, 24, 1, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    wanted = exact(doubled := images.detach().double().requires_grad_())
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = layer(images)
    assert (found.dtype, found.shape) == (dtype, (6, 24, 1, 1))
    signal = torch.randn(6, 24, 1, 1)
    found.backward(signal.to(dtype))
    wanted.backward(signal.double())
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(found.double(), wanted, **close)
    torch.testing.assert_close(images.grad.double(), doubled.grad, **close)
    for own_p, exact_p in zip(layer.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(own_p.grad.double(), exact_p.grad, **close)


def test_the_gates_of_squeeze_and_excite_are_such_products() -> None:
    network = build(compose("mobilenet_v3_small", alpha=0.5, resolution=32, classes=3))
    seen: list[str] = []
    for name, module in network.named_modules():
        if name.endswith((".excite.squeeze", ".excite.excite")):
            module.register_forward_hook(lambda _, inputs, outputs: seen.append(str(outputs.grad_fn)))
    network.to(memory_format=torch.channels_last).train()(images_of(3, 32, 32))
    assert len(seen) == 18
    assert not any("Convolution" in how for how in seen)


def test_what_is_more_than_a_product_stays_a_convolution() -> None:
    pixel = images_of(40, 1, 1)
    for layer, images in (
        (FullConv2d(40, 24, 1, padding=1), pixel),
        (FullConv2d(40, 24, 1, groups=2), pixel),
        (FullConv2d(40, 24, 3, padding=1), pixel),
        (FullConv2d(40, 24, 1), images_of(40, 2, 1)),
    ):
        stock = nn.functional.conv2d(images, layer.weight, layer.bias, 1, layer.padding, 1, layer.groups)
        assert torch.equal(layer(images), stock)
        assert "Convolution" in str(layer(images).grad_fn)
    with torch.no_grad():
        layer = FullConv2d(40, 24, 1)
        assert torch.equal(layer(pixel), nn.functional.conv2d(pixel, layer.weight, layer.bias))


@pytest.mark.usefixtures("everywhere")
def test_everything_else_is_stock() -> None:
    images = images_of(64, 8, 8)
    layer = layer_of(64, 96, 3)
    assert own(layer(images))
    assert not own(layer(images.detach().contiguous().requires_grad_()))  # planes
    for other in (
        FullConv2d(64, 96, 3, padding=1),  # a bias
        FullConv2d(64, 96, 3, bias=False),  # padding of its own, as "same" has it in strided layers
        FullConv2d(64, 96, 3, padding=2, dilation=2, bias=False),
        FullConv2d(64, 96, 3, padding=1, groups=2, bias=False),
        FullConv2d(64, 96, (3, 1), padding=(1, 0), bias=False),
        FullConv2d(64, 96, 3, stride=(1, 2), padding=1, bias=False),
        FullConv2d(64, 96, 2, padding=1, bias=False),
        FullConv2d(64, 96, 1, stride=2, bias=False),  # reads a quarter of the pixels
    ):
        assert not own(other(images))
    with torch.no_grad():
        assert not own(layer(images))


@pytest.mark.parametrize(
    ("kind", "dtype", "before", "after", "kernel", "side", "ours"),
    [
        ("AVX2", torch.float32, 64, 96, 1, 8, True),
        ("AVX2", torch.float32, 64, 16, 1, 8, False),  # thin
        ("AVX2", torch.float32, 64, 96, 3, 8, False),
        ("AVX2", torch.float64, 64, 96, 1, 8, False),
        ("AVX-512", torch.float32, 64, 96, 1, 8, False),
        ("AVX-512", torch.float32, 64, 96, 1, 4, True),
        ("AVX-512", torch.bfloat16, 64, 96, 1, 4, False),
        ("AMX", torch.float32, 64, 96, 1, 4, True),
        ("AMX", torch.bfloat16, 64, 96, 1, 8, True),
        ("AMX", torch.bfloat16, 64, 96, 1, 16, False),
        ("AMX", torch.bfloat16, 128, 128, 1, 16, True),
        ("AMX", torch.bfloat16, 64, 96, 3, 8, True),
        ("AMX", torch.bfloat16, 64, 96, 3, 16, False),
        ("other", torch.float32, 64, 96, 1, 4, False),
    ],
)
def test_it_is_where_it_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    dtype: torch.dtype,
    before: int,
    after: int,
    kernel: int,
    side: int,
    ours: bool,
) -> None:
    monkeypatch.setattr(full, "processor_kind", lambda: kind)
    layer, images = layer_of(before, after, kernel), images_of(before, side, side)
    assert own(layer.to(dtype)(images.to(dtype))) == ours
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            assert own(layer.float()(images)) == ours


@pytest.mark.parametrize(
    ("capability", "amx", "kind"),
    [("AVX512", True, "AMX"), ("AVX512", False, "AVX-512"), ("AVX2", False, "AVX2"), ("DEFAULT", False, "other")],
)
def test_kinds_of_processors(monkeypatch: pytest.MonkeyPatch, capability: str, amx: bool, kind: str) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(eager, "has_amx", lambda: amx)
    eager.processor_kind.cache_clear()
    assert eager.processor_kind() == kind
    eager.processor_kind.cache_clear()


def test_a_slice_of_a_wide_weight_gets_its_gradient() -> None:
    layer, images = layer_of(96, 128), images_of(64, 8, 8)
    outputs = functional_call(layer, {"weight": layer.weight[:80, :64]}, (images,))
    assert own(outputs)
    outputs.sum().backward()
    assert layer.weight.grad is not None
    wanted = images.detach().sum((0, 2, 3)).expand(80, 64)
    torch.testing.assert_close(layer.weight.grad[:80, :64, 0, 0], wanted, rtol=1e-4, atol=1e-4)
    assert not layer.weight.grad[80:].any()
    assert not layer.weight.grad[:, 64:].any()


def test_state_dict_and_initial_values_are_those_of_a_convolution() -> None:
    torch.manual_seed(3)
    layer = FullConv2d(6, 5, 3, stride=2, padding=1)
    torch.manual_seed(3)
    stock = nn.Conv2d(6, 5, 3, stride=2, padding=1)
    assert list(layer.state_dict()) == list(stock.state_dict())
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in stock.state_dict().items())


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("kernel", [1, 3])
def test_captured_graph_holds_one_ordinary_convolution(kernel: int) -> None:
    layer, example = layer_of(64, 64, kernel), images_of(64, 8, 8).detach()
    captured = torch.export.export(layer, (example,))
    calls = [node.target for node in captured.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.aten.conv2d.default]


def ways(network: nn.Module, images: Tensor) -> list[bool]:
    """Of the full convolutions in one pass, in their order: whether the gradient is ours."""
    seen: list[bool] = []
    for module in network.modules():
        if isinstance(module, FullConv2d):
            module.register_forward_hook(lambda _, inputs, outputs: seen.append(own(outputs)))
    network.to(memory_format=torch.channels_last).train()(images).sum().backward()
    return seen


def test_a_network_s_wide_pointwise_layers_take_it() -> None:
    seen = ways(build(compose("mobilenet_v1", alpha=0.5, resolution=64, classes=3)), images_of(3, 64, 64))
    assert len(seen) == 14
    assert not seen[0]  # the stem
    assert sum(seen) >= 10


def test_fused_rows_on_small_maps_take_it_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "processor_kind", lambda: "AMX")
    rows = (
        ConvRow(out=8, act="relu"),
        FusedRow(out=16, expanded=16, stride=2),
        FusedRow(out=16, expanded=16, stride=2),
    )
    spec = ArchSpec(name="fused", paper="none", rows=rows, head=ClassifierHead(classes=2), norm=NORM, resolution=32)
    seen = ways(build(spec).bfloat16(), images_of(3, 32, 32).bfloat16())
    assert seen == [False, False, False, True, True]
