import pytest
import torch
from torch import Tensor, nn

from mobilenets.nets.parts import GlobalMean


def gradient_of(mean: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What the mean says of (N, C, H, W), and the gradient of a weighed sum of it."""
    leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
    said = mean(leaf)
    (gradient,) = torch.autograd.grad((said * weights).sum(), leaf)
    return said.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 5)])
def test_the_mean_is_the_stock_one_with_a_gradient_in_the_layout_of_the_images(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 16, *size, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(3, 16, 1, 1, generator=generator).to(dtype)
    said, gradient = gradient_of(GlobalMean(), images, weights)
    stock, stock_gradient = gradient_of(nn.AdaptiveAvgPool2d(1), images, weights)
    assert (said.shape, said.dtype) == (stock.shape, dtype)
    torch.testing.assert_close(said, stock)
    torch.testing.assert_close(gradient, stock_gradient)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_where_nothing_is_learned_it_is_the_stock_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported or captured keeps the operator that others know."""
    calls: list[tuple[int, ...]] = []

    def stock(self: nn.Module, images: Tensor) -> Tensor:
        calls.append(tuple(images.shape))
        return images.mean((2, 3), keepdim=True)

    monkeypatch.setattr(nn.AdaptiveAvgPool2d, "forward", stock)
    images = torch.zeros(1, 8, 2, 2).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        GlobalMean()(images)
    GlobalMean()(torch.zeros(1, 8, 2, 2))  # not channels last
    assert calls == [(1, 8, 2, 2)] * 2
    GlobalMean()(images)
    assert len(calls) == 2
