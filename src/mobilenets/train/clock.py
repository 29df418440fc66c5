"""Seconds of training."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Counts on from the seconds of earlier processes of the same run."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    @property
    def seconds(self) -> float:
        """Now."""
        return time.monotonic() - self._began
