"""Muon: SGD whose steps for matrices are orthogonal. A MobileNet is nearly all matrices, its 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonal"]

# Of the quintic iteration, from the post below: steep at zero, so that five rounds bring every singular value near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
TINY = 1e-7
LARGEST = 256  # outputs that are made orthogonal together; the work per weight grows with their number
SMALL = 128  # of the smaller side: up to here float32 is as fast: what such products cost is calls and conversions
WIDE = 2  # times as many columns as rows: from here, products of the rows alone pay


class Muon(torch.optim.SGD):
    """Momentum with Nesterov's look ahead; in groups with `orthogonal`, its direction is made an orthogonal matrix.

    Such a step moves every direction of a layer's input alike, those that few images need too. It knows no size of
    gradients: `lr` is the greatest change of a matrix's singular values, and `shrink` is taken of the weights per step
    and unit of `lr`. Kernels are matrices of (outputs, inputs x height x width), cut into parts of `LARGEST` outputs; a
    tall one gets a step longer by sqrt(outputs / inputs). (Jordan et al. 2024, "Muon: An optimizer for hidden layers in
    neural networks", kellerjordan.github.io/posts/muon; there without parts.) All other groups are those of torch's
    SGD.

    Args:
        groups: of parameters, as torch's optimizers take them; with `orthogonal: True`, `shrink: float`, or neither.
        lr: of groups without their own.
        momentum: above 0, of all.
        dtype: in which large matrices are multiplied: bfloat16 is enough, and slow where the processor does not have
            it.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Gradients of matrices are used up: they are None afterwards."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"] if group.get("orthogonal") else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, group)
                    parameter.grad = None  # so that SGD passes it by
        super().step()
        return loss

    def _step_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"]
        momentum.mul_(group["momentum"]).add_(gradient)
        ahead = gradient.add(momentum, alpha=group["momentum"]).flatten(1)
        length = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["shrink"])
        ahead = ahead.to(self._dtype) if min(ahead.shape) > SMALL else ahead
        step = torch.cat([orthogonal(part) for part in torch.split(ahead, LARGEST)]).to(parameter.dtype)
        parameter.add_(step.reshape(parameter.shape), alpha=-group["lr"] * length)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors and singular values near 1 (0.7 to 1.2); zeros stay zeros.

    By Newton-Schulz iteration, in the matrix's own number format: (M, N) to (M, N). A round multiplies M by a
    polynomial in MM'. Of a wide matrix in float32 the polynomials are multiplied with each other first, which takes no
    columns; bfloat16 has not the digits for that, for they are hundreds in directions that are next to nothing.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    made = matrix.T if tall else matrix
    made = made / (made.norm() + TINY)
    if made.dtype == torch.float32 and made.shape[1] >= WIDE * made.shape[0]:
        gram = made @ made.T
        whole = factor = _polynomial(gram)
        for _ in range(ROUNDS - 1):
            gram = factor @ gram @ factor
            factor = _polynomial(gram)
            whole = factor @ whole
        made = whole @ made
    else:
        for _ in range(ROUNDS):
            gram = made @ made.T
            made = torch.addmm(made, torch.addmm(gram, gram, gram, beta=b, alpha=c), made, beta=a)
    return made.T if tall else made


def _polynomial(gram: Tensor) -> Tensor:
    """a + b * gram + c * gram @ gram."""
    a, b, c = COEFFICIENTS
    made = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    made.diagonal().add_(a)
    return made
