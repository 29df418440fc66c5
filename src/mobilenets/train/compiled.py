"""A network through torch.compile: tried on a copy, with an account of what it costs and what it brings.

A copy that was compiled has done the work for the network itself: torch takes the loops that it wrote for the one for
the other. `nn.Module.compile` works in place, so tensors keep their names; the depthwise and norm layers that are made
for CPUs step aside (`nets.depthwise`, `nets.norm_act`). Only calls of the network as a whole are compiled: the narrow
passes of an elastic training, maps and embeddings that are matched and the twin that rounds for int8 run as ever.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from ..errors import UsageError
from .loader import Drawn
from .trial import MakeLearner, Trial, measure
from .way import Way

__all__ = ["Account", "check_compiles", "compiled_if_faster"]

COMPARE_SECONDS = 8.0  # of steps, half without and half with
WARMING = 2  # steps in which torch compiles: forward, backward, and what differs once there are momenta
WORTH = 1.05  # what is not faster by a twentieth is within what other programs change from minute to minute


@dataclass(frozen=True)
class Account:
    """What compiling costs and brings."""

    compile_seconds: float
    plain: float  # seconds of a step
    compiled: float  # likewise
    images: int  # of a step

    @property
    def pays(self) -> bool:
        """Whether steps are faster by more than chance."""
        return self.plain >= WORTH * self.compiled

    @property
    def even_after(self) -> int | None:
        """Steps after which the time that compiling took is won back; None: it never is."""
        return math.ceil(self.compile_seconds / (self.plain - self.compiled)) if self.pays else None

    def describe(self, *, steps: int | None) -> str:
        """One line.

        Args:
            steps: of the whole run, where that is known.
        """
        before, after = self.images / self.plain, self.images / self.compiled
        told = (
            f"torch.compile: {self.compile_seconds:.1f} s to compile; {before:,.0f} images/s without, {after:,.0f} "
            f"with ({after / before:.2f}x): "
        )
        if self.even_after is None:
            return told + "it never pays, so the run goes on without"
        told += f"paid for after {self.even_after:,} steps"
        if steps is not None and self.even_after > steps:
            told += f", and this run has {steps:,}; it is kept, for the compiling is done"
        return told


def compiled_if_faster(
    way: Way,
    make: MakeLearner,
    drawn: Sequence[Drawn],
    *,
    steps: int | None,
    say: Callable[[str], None],
) -> Way:
    """The way, compiled where that is faster; says what it bought. Where torch cannot compile, says why.

    Args:
        way: how the run computes otherwise.
        make: a learner of a copy of the network.
        drawn: batches.
        steps: of the whole run, where that is known.
        say: tells a line.
    """
    other = msgspec.structs.replace(way, compiled=True)
    say("torch.compile: compiling a copy of the network, which may take minutes")
    try:
        trial = Trial(other, make(other), drawn)
        trial.warm(WARMING)
    except Exception as error:  # whatever stops a compiler need not stop the training
        say(f"torch.compile does not work here: {_cause(error)}; the run goes on without")
        return way
    plain = Trial(way, make(way), drawn)
    measure([plain, trial], seconds=COMPARE_SECONDS)
    account = account_of(plain, trial, images=len(drawn[0].targets))
    say(account.describe(steps=steps))
    return other if account.pays else way


def account_of(plain: Trial, compiled: Trial, *, images: int) -> Account:
    """From two trials that were measured; the second one compiled in the steps that warmed it up."""
    without, step = (trial.step_seconds or trial.warming[-1] for trial in (plain, compiled))
    took = max(0.0, math.fsum(compiled.warming) - len(compiled.warming) * step)
    return Account(compile_seconds=took, plain=without, compiled=step, images=images)


def check_compiles(way: Way, make: MakeLearner, drawn: Sequence[Drawn], *, say: Callable[[str], None]) -> None:
    """Compile for a run that was compiled before it was stopped.

    Raises:
        UsageError: torch cannot do it any more.
    """
    trial = Trial(way, make(way), drawn)
    try:
        trial.warm(WARMING)
    except Exception as error:
        raise UsageError(
            f"this run was compiled, and torch.compile does not work here: {_cause(error)}",
            wanted="what it began with: otherwise it would not end as it would have without a stop",
            do="make that compiler available, or train into another folder without --compile",
        ) from error
    say(f"torch.compile: {math.fsum(trial.warming):.1f} s to compile anew")


def _cause(error: BaseException) -> str:
    """The first line that says something; for the usual cause, what to do."""
    text = str(error)
    if "C++ compiler" in text or "InvalidCxxCompiler" in text:
        usual = "clang++ (xcode-select --install)" if sys.platform == "darwin" else "g++"
        return f"there is no C++ compiler: install {usual}, or name one in the variable CXX"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
