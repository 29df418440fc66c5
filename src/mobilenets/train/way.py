"""How a machine computes the steps of a run: number format, threads, compiled or as Python runs it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch

from .machine import DTYPES, Exact, exact_precision
from .recipe import Recipe

__all__ = ["AS_IT_IS", "Tuning", "Way", "precision_name", "usual_way"]


@dataclass(frozen=True)
class Tuning:
    """What is tried for speed before the first step, on copies, so that nothing of it is learned.

    It is about the machine, so it is no part of the recipe. What was chosen is kept in every checkpoint, and a run that
    goes on computes as that says, without measuring again. So it ends with the bits of a run that was never stopped:
    on the same kind of processor, with the same torch, and, where it is compiled, the same C++ compiler, for the loops
    that torch.compile writes depend on these (threads are set to the number that was chosen). What this does not
    promise: two runs that begin anew may choose differently, for a clock decides; and a compiled run has other last
    bits than one that is not, for it adds in another order and draws other numbers for dropout.
    """

    probe: bool = False  # which precision and how many threads; what the recipe fixes stays
    compile: bool = False  # the network through torch.compile, kept where it is faster

    @property
    def asked(self) -> bool:
        """Whether anything is tried."""
        return self.probe or self.compile


AS_IT_IS = Tuning()


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to compute. It is written into checkpoints."""

    precision: Exact  # of the forward and backward pass
    threads: int  # of the CPU
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The number format as torch calls it."""
        return DTYPES[self.precision]

    def describe(self) -> str:
        """ "bfloat16, 2 threads, compiled"."""
        threads = f"{self.threads} thread" + ("s" if self.threads != 1 else "")
        return ", ".join((precision_name(self.precision), threads, *(("compiled",) if self.compiled else ())))


def precision_name(precision: Exact) -> str:
    """In words."""
    return str(DTYPES[precision]).removeprefix("torch.")


def usual_way(recipe: Recipe, device: torch.device) -> Way:
    """What is done where nothing is tried: the recipe's precision, or the machine's; all threads."""
    return Way(precision=exact_precision(recipe.precision, device), threads=torch.get_num_threads())
