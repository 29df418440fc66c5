"""Asking a process of its own for one measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import msgspec

from ..bench.replies import error_of
from ..errors import CheckError

__all__ = ["ask"]

WORKER: Final = "mobilenets.profiling.worker"
REPLY_SECONDS: Final = 300.0


def ask(request: msgspec.Struct, *, name: str) -> dict[str, Any]:
    """The worker's reply to a request of `profiling.worker`.

    Args:
        request: what is to be measured.
        name: what errors call it.

    Raises:
        MobileNetsError: as the worker says.
        CheckError: it died, or was silent for five minutes.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", WORKER],  # -P: as for bench's workers
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=REPLY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckError(
            f"{name}: no measurement after {REPLY_SECONDS:g} s", wanted="a model that runs", do="try a smaller one"
        ) from None
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CheckError(
            f"{name}: the process that measured it died (exit code {done.returncode})"
            + (f": {said[-1]}" if said else ""),
            wanted="a model that runs",
            do="try `mobilenets predict` with it",
        )
    reply: dict[str, Any] = json.loads(done.stdout)
    if "error" in reply:
        raise error_of(reply, name=name)
    return reply
