import pytest
import torch
import torch.nn.functional as F

from mobilenets.nets.activations import ReLU, ReLU6

PAIRS = [(ReLU(), F.relu), (ReLU6(), F.relu6)]


def every_finite_bfloat16() -> torch.Tensor:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16)
    return values[values.isfinite()]


@pytest.mark.parametrize(("ours", "stock"), PAIRS, ids=["relu", "relu6"])
def test_every_finite_bfloat16_gives_the_stock_result(ours, stock) -> None:
    values = every_finite_bfloat16().requires_grad_()
    assert torch.equal(ours(values), stock(values))


@pytest.mark.parametrize(("ours", "stock"), PAIRS, ids=["relu", "relu6"])
def test_gradients_are_the_stock_ones(ours, stock) -> None:
    torch.manual_seed(0)
    values = torch.cat([every_finite_bfloat16()[::7], torch.randn(1000).to(torch.bfloat16) * 5])
    gradient = torch.randn(len(values)).to(torch.bfloat16)
    given = []
    for function in (ours, stock):
        leaf = values.clone().requires_grad_()
        function(leaf).backward(gradient)
        given.append(leaf.grad)
    assert torch.equal(*given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ours", "stock"), PAIRS, ids=["relu", "relu6"])
def test_other_number_formats_are_stock_and_differentiable(ours, stock, dtype: torch.dtype) -> None:
    values = torch.linspace(-8, 8, 101, dtype=dtype).requires_grad_()
    assert torch.equal(ours(values), stock(values))
    ours(values).sum().backward()


def test_channels_last_stays_channels_last() -> None:
    values = torch.randn(2, 8, 5, 5).to(torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    assert ReLU6()(values).is_contiguous(memory_format=torch.channels_last)


def test_the_input_is_left_as_it_was() -> None:
    values = torch.randn(100).to(torch.bfloat16).requires_grad_()
    before = values.detach().clone()
    ReLU()(values)
    assert torch.equal(values.detach(), before)
