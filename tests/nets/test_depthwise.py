"""Claims about the depthwise convolution with its own CPU backward."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenets.nets import depthwise
from mobilenets.nets.depthwise import DepthwiseConv2d, depthwise_conv2d

CHANNELS = 19
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
"""Relative error in the 2-norm; bfloat16 keeps 8 bits, so one rounding is about 2e-3."""

SHAPES = [
    # kernel, stride, padding, height, width
    *(
        (kernel, stride, kernel // 2, height, width)
        for kernel, stride, (height, width) in itertools.product((3, 5, 7), (1, 2), ((8, 8), (9, 7), (10, 13)))
    ),
    (3, 1, 0, 8, 9),
    (3, 2, 0, 9, 8),  # after the caller's asymmetric padding
    (5, 2, 0, 11, 12),
    (7, 2, 0, 13, 14),
    (5, 1, 4, 6, 5),
    (3, 3, 1, 11, 10),
    (5, 2, 2, 2, 2),
    (7, 1, 3, 2, 1),
    (1, 1, 0, 4, 4),
    # kernels wider than the map
    (3, 1, 1, 1, 1),
    (3, 1, 1, 2, 9),
    (3, 2, 1, 2, 1),
    (5, 1, 2, 4, 4),
    (5, 2, 2, 9, 3),
    (7, 1, 3, 6, 5),
]


def _example(dtype: torch.dtype, kernel: int, height: int, width: int, *, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(batch, CHANNELS, height, width, generator=generator).to(dtype)
    weight = torch.randn(CHANNELS, 1, kernel, kernel, generator=generator).to(dtype)
    return (
        inputs.contiguous(memory_format=torch.channels_last).requires_grad_(),
        weight.requires_grad_(),
    )


def _gradients(
    operation: Any, inputs: Tensor, weight: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    output = operation(inputs, weight, stride=stride, padding=padding)
    generator = torch.Generator().manual_seed(11)
    signal = torch.randn(output.shape, generator=generator).to(torch.bfloat16).to(output.dtype)
    return output, *torch.autograd.grad(output, (inputs, weight), signal)


def _reference(inputs: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    def stock(x: Tensor, w: Tensor, *, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, w, None, stride, padding, 1, CHANNELS)

    exact = (inputs.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    return _gradients(stock, *exact, stride, padding)


def _error(value: Tensor, exact: Tensor) -> float:
    assert value.shape == exact.shape
    difference = value.detach().double() - exact.detach()
    return float(difference.norm() / exact.detach().norm().clamp_min(1e-12))


def _fast_nodes(output: Tensor) -> bool:
    return output.grad_fn is not None and "_DepthwiseConv2d" in output.grad_fn.name()


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float32, "AVX2"), (torch.bfloat16, "AVX-512"), (torch.bfloat16, "AMX")]
)
@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), SHAPES)
def test_gradients_match_float64_for_every_kernel_stride_and_size(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    kind: str,
    kernel: int,
    stride: int,
    padding: int,
    height: int,
    width: int,
) -> None:
    monkeypatch.setattr(depthwise, "processor_kind", lambda: kind)
    inputs, weight = _example(dtype, kernel, height, width)
    mine = _gradients(depthwise_conv2d, inputs, weight, stride, padding)
    assert _fast_nodes(mine[0])
    exact = _reference(inputs, weight, stride, padding)
    for value, expected in zip(mine, exact, strict=True):
        assert value.dtype == dtype
        assert _error(value, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_no_weight_gradient_is_asked_of_the_stock_kernel_on_a_map_narrower_than_it(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthwise, "processor_kind", lambda: "AVX-512")
    stock, seen = depthwise.stock_gradients, []

    def watched(grad: Tensor, inputs: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        if rest[-1] == (False, True):
            seen.append((min(inputs.shape[2:]), max(weight.shape[2:])))
        return stock(grad, inputs, weight, *rest)

    monkeypatch.setattr(depthwise, "stock_gradients", watched)
    for kernel, stride, padding, height, width in SHAPES:
        _gradients(depthwise_conv2d, *_example(dtype, kernel, height, width), stride, padding)
    assert len(seen) >= len(SHAPES)
    assert all(side >= kernel for side, kernel in seen)


@pytest.mark.parametrize(
    ("kind", "dtype", "kernel", "side", "exchanged"),
    [
        ("AMX", torch.bfloat16, 5, 4, True),
        ("AMX", torch.bfloat16, 7, 9, True),
        ("AMX", torch.bfloat16, 5, 2, False),
        ("AMX", torch.bfloat16, 3, 8, False),
        ("AMX", torch.float32, 5, 4, False),
        ("AVX-512", torch.bfloat16, 5, 4, False),
    ],
)
def test_gradients_are_kernels_where_that_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype, kernel: int, side: int, exchanged: bool
) -> None:
    seen: list[bool] = []
    own = depthwise._exchanged
    monkeypatch.setattr(depthwise, "processor_kind", lambda: kind)
    monkeypatch.setattr(depthwise, "_exchanged", lambda *given: (seen.append(True), own(*given))[1])
    _gradients(depthwise_conv2d, *_example(dtype, kernel, side, side), 1, kernel // 2)
    assert seen == [True] * exchanged


def test_one_strided_gradient_leaves_nothing_behind_for_the_next() -> None:
    for seed in (1, 2):
        inputs, weight = _example(torch.bfloat16, 3, 8, 8)
        output = depthwise_conv2d(inputs, weight, stride=2, padding=1)
        signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
        mine = torch.autograd.grad(output, inputs, signal)[0]
        exact = (inputs.detach().double().requires_grad_(), weight.detach().double())
        stock = F.conv2d(*exact, None, 2, 1, 1, CHANNELS)
        assert _error(mine, torch.autograd.grad(stock, exact[0], signal.double())[0]) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("kernel", [3, 5])
def test_asymmetric_same_padding_by_the_caller_keeps_the_gradients_right(kernel: int) -> None:
    inputs, weight = _example(torch.float32, kernel, 8, 8)
    total = kernel - 2  # an even size at stride 2
    edges = (total // 2, total - total // 2) * 2

    def same(x: Tensor, w: Tensor, *, stride: int, padding: int) -> Tensor:
        return depthwise_conv2d(F.pad(x, edges), w, stride=stride, padding=padding)

    def stock(x: Tensor, w: Tensor, *, stride: int, padding: int) -> Tensor:
        return F.conv2d(F.pad(x, edges), w, None, stride, padding, 1, CHANNELS)

    mine = _gradients(same, inputs, weight, 2, 0)
    exact = (inputs.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    for value, expected in zip(mine, _gradients(stock, *exact, 2, 0), strict=True):
        assert _error(value, expected) < TOLERANCE[torch.float32]


def test_gradients_reach_float32_parameters_under_autocast() -> None:
    layer = DepthwiseConv2d(CHANNELS, 5, stride=2, padding=2, bias=True)
    inputs, _ = _example(torch.float32, 5, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(inputs)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    twin = nn.Conv2d(CHANNELS, CHANNELS, 5, 2, 2, groups=CHANNELS).double()
    twin.load_state_dict(layer.state_dict())
    exact = inputs.detach().double().requires_grad_()
    twin(exact).square().sum().backward()
    assert layer.bias is not None
    assert twin.bias is not None
    for value, expected in (
        (inputs.grad, exact.grad),
        (layer.weight.grad, twin.weight.grad),
        (layer.bias.grad, twin.bias.grad),
    ):
        assert value is not None
        assert expected is not None
        assert value.dtype == torch.float32
        assert _error(value, expected) < 2 * TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_only_the_gradients_asked_for_are_computed(dtype: torch.dtype) -> None:
    inputs, weight = _example(dtype, 5, 8, 8)
    (both, _) = torch.autograd.grad(depthwise_conv2d(inputs, weight, padding=2).sum(), (inputs, weight))
    (alone,) = torch.autograd.grad(depthwise_conv2d(inputs, weight.detach(), padding=2).sum(), inputs)
    assert torch.equal(alone, both)
    output = depthwise_conv2d(inputs.detach(), weight, padding=2)
    (wanted,) = torch.autograd.grad(output.sum(), weight)
    assert wanted.shape == weight.shape


@pytest.mark.parametrize(("kernel", "stride"), [*itertools.product((3, 5, 7), (1, 2))])
def test_two_runs_give_the_same_bits(kernel: int, stride: int) -> None:
    inputs, weight = _example(torch.bfloat16, kernel, 16, 16, batch=8)
    first = _gradients(depthwise_conv2d, inputs, weight, stride, kernel // 2)
    second = _gradients(depthwise_conv2d, inputs, weight, stride, kernel // 2)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_forward_has_the_bits_of_the_stock_convolution() -> None:
    inputs, weight = _example(torch.float32, 3, 9, 9)
    stock = F.conv2d(inputs, weight, None, 2, 1, 1, CHANNELS)
    assert torch.equal(depthwise_conv2d(inputs, weight, stride=2, padding=1), stock)


def test_without_a_gradient_it_is_the_stock_convolution() -> None:
    inputs, weight = _example(torch.float32, 3, 8, 8)
    with torch.no_grad():
        assert depthwise_conv2d(inputs, weight).grad_fn is None


@pytest.mark.parametrize(("padding", "dilation"), [(2, 2), (3, 1)], ids=["dilation", "wide padding"])
def test_what_our_backward_does_not_cover_falls_back_to_stock(padding: int, dilation: int) -> None:
    inputs, weight = _example(torch.float32, 3, 8, 8)
    output = depthwise_conv2d(inputs, weight, padding=padding, dilation=dilation)
    assert not _fast_nodes(output)
    assert torch.equal(output, F.conv2d(inputs, weight, None, 1, padding, dilation, CHANNELS))


def test_another_layout_and_a_channel_multiplier_fall_back_to_stock() -> None:
    inputs, weight = _example(torch.float32, 3, 8, 8)
    assert not _fast_nodes(depthwise_conv2d(inputs.contiguous(), weight))
    assert not _fast_nodes(depthwise_conv2d(inputs, torch.cat([weight, weight])))


def test_state_dict_and_initial_values_are_those_of_a_grouped_convolution() -> None:
    torch.manual_seed(3)
    layer = DepthwiseConv2d(6, 5, stride=2, padding=2, bias=True)
    torch.manual_seed(3)
    stock = nn.Conv2d(6, 6, 5, 2, 2, groups=6)
    assert list(layer.state_dict()) == list(stock.state_dict())
    for name, value in stock.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)


@pytest.mark.parametrize("training", [False, True])
def test_captured_graph_holds_one_ordinary_convolution(training: bool) -> None:
    layer = DepthwiseConv2d(4, 3, stride=2, padding=1).train(training)
    example = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    captured = torch.export.export(layer, (example,))
    calls = [node.target for node in captured.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.aten.conv2d.default]
    assert torch.equal(captured.module()(example), layer(example))
