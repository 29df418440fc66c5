"""Every published count recomputed from our tables and compared."""

from __future__ import annotations

from typing import Literal

import msgspec

from .catalog import find
from .cost import cost
from .published import Fact, facts

__all__ = ["Check", "Verdict", "verify"]

# "equal": an exact count; "prints as": a rounded number that the count prints as; "erratum": known not to be
# reproducible, with the reason; "mismatch": none of these.
Verdict = Literal["equal", "prints as", "erratum", "mismatch"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One published number and what our table counts to."""

    fact: Fact
    computed: int
    verdict: Verdict


def verify() -> tuple[Check, ...]:
    """Recount every fact that a table decides. An erratum that agrees after all is a mismatch: its note is wrong."""
    checks = []
    for fact in facts():
        if fact.metric == "top1":
            continue  # measured by its authors; no table tells it
        counted = cost(find(fact.model))
        computed = counted.parameters if fact.metric == "parameters" else counted.mult_adds
        agrees = fact.agrees(computed)
        verdict: Verdict = "mismatch"
        if agrees and fact.erratum is None:
            verdict = "equal" if fact.step == 0 else "prints as"
        elif not agrees and fact.erratum is not None:
            verdict = "erratum"
        checks.append(Check(fact=fact, computed=computed, verdict=verdict))
    return tuple(checks)
