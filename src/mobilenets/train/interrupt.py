"""Ctrl-C, or a polite kill, as a wish to stop after the step at hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from ..progress import say

__all__ = ["stop_on_interrupt"]

# SIGTERM is what schedulers, containers and torchrun send before they kill.
TOLD: Mapping[int, str] = MappingProxyType({signal.SIGINT: "press Ctrl-C again", signal.SIGTERM: "send SIGTERM again"})


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event; a second one of a kind does what it usually does."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    usual = {number: signal.getsignal(number) or signal.SIG_DFL for number in TOLD}  # None: set by other than Python

    def stop(number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(number, usual[number])
        say(f"stopping after this step; {TOLD[number]} to stop at once")

    for number in TOLD:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
