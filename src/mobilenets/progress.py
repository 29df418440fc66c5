"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["say", "track"]

T = TypeVar("T")
PLAIN_SECONDS = 10.0  # a log wants few lines


def say(message: str) -> None:
    """One line for the person who waits."""
    print(message, file=sys.stderr, flush=True)


def track(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done.

    On a terminal this is a bar; elsewhere a line is printed every ten seconds, and none for work that ends sooner.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, leave=False, file=sys.stderr)
        return
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS:
            last = now
            left = (now - started) / max(done, 1) * (total - done)
            say(f"{what}: {done} of {total}, about {left:.0f} s left")
        yield item
