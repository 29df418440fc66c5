"""Loss scaling: gradients in float16 would vanish without (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

torch's GradScaler asks the device after each step whether it may be made, and the host waits for the answer. Here a
step whose gradients overflowed is one without gradients: momentum and averages go on, and nobody waits. The factor is
torch's: doubled after 2,000 steps that did not overflow, halved by one that did.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["LossScale", "backward", "scale_for"]

FIRST = 2.0**16
GROWS, SHRINKS, CALM = 2.0, 0.5, 2000


class LossScale(nn.Module):
    """The factor on a loss. Checkpoints hold it, as a module beside the network."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("factor", torch.full((), FIRST, device=device))
        self.register_buffer("calm", torch.zeros((), dtype=torch.int32, device=device))  # steps without an overflow

    def up(self, loss: Tensor) -> Tensor:
        """The loss, scaled."""
        return loss * cast(Tensor, self.factor)

    @torch.no_grad()
    def down(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients as without scaling, in place; zero if one of them is not finite. The factor adapts."""
        factor, calm = cast(Tensor, self.factor), cast(Tensor, self.calm)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        overflowed = torch.zeros((), device=factor.device)
        # What GradScaler calls: one pass over all gradients.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflowed, factor.reciprocal())
        lost = overflowed.bool()
        for gradient in gradients:
            gradient.masked_fill_(lost, 0.0)
        torch._amp_update_scale_(factor, calm, overflowed, GROWS, SHRINKS, CALM)


def scale_for(dtype: torch.dtype, device: torch.device) -> LossScale | None:
    """What a forward pass in that number format needs: a scale in float16, nothing in others."""
    return LossScale(device) if dtype == torch.float16 else None


def backward(loss: Tensor, scale: LossScale | None) -> None:
    """Add the gradients of a loss to `.grad`, scaled where there is a scale; its `down` takes that back."""
    (loss if scale is None else scale.up(loss)).backward()  # type: ignore[no-untyped-call]
