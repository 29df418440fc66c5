"""From values to pixels: scales, ticks, and places for labels where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Box", "Scale", "place", "text_width", "ticks"]

WIDE_RANGE = 5.0  # values that differ by more than this factor are told apart on a logarithmic scale only
NARROW = frozenset("fijlrtI.,:;'|!()[] ")
BROAD = frozenset("mwMW@%")


@dataclass(frozen=True)
class Scale:
    """Maps `low` to pixel `start` and `high` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; those outside the scale land outside."""
        if self.log:
            part = math.log(max(value, 1e-9) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    @classmethod
    def around(cls, values: Iterable[float], *, start: float, end: float, positive: bool) -> Scale:
        """A scale that holds the values with some air; logarithmic where they are positive and far apart."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not positive)] or [1.0]
        low, high = min(finite), max(finite)
        if positive and high > WIDE_RANGE * low:
            air = (high / low) ** 0.05
            return cls(low / air, high * air, start, end, log=True)
        air = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(max(0.0, low - air) if positive else low - air, high + air, start, end)

    def rounded(self, *, about: int) -> Scale:
        """A linear scale that begins and ends at a tick."""
        found = ticks(self.low, self.high, about=about)
        step = found[1] - found[0] if len(found) > 1 else self.high - self.low
        low, high = math.floor(self.low / step + 1e-9) * step, math.ceil(self.high / step - 1e-9) * step
        return Scale(low, high, self.start, self.end)

    def ticks(self, *, about: int) -> list[float]:
        """Round values on the scale."""
        if not self.log:
            return ticks(self.low, self.high, about=about)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [step * 10.0**decade for decade in decades for step in steps]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= about + 2:
                break
        return found if len(found) >= 2 else ticks(self.low, self.high, about=about)


def ticks(low: float, high: float, *, about: int) -> list[float]:
    """Round values from low to high: multiples of 1, 2 or 5 times a power of ten, about that many."""
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def inside(self, other: Box) -> bool:
        """Whether nothing of it sticks out of the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def text_width(text: str, *, size: float) -> float:
    """About how wide a line is in a system sans-serif; rather too wide than too narrow."""
    return size * sum(0.32 if c in NARROW else 0.92 if c in BROAD else 0.6 for c in text)


def place(
    x: float, y: float, *, width: float, height: float, within: Box, taken: Sequence[Box], must: bool = False
) -> Box | None:
    """Where a label of a point goes: near it, inside `within`, over nothing that is taken.

    Args:
        x: of the point, like y in pixels.
        y: of the point.
        width: of the label.
        height: of the label.
        within: the room there is.
        taken: what is already there, the point's own marker included.
        must: if nothing is free, take the place that covers least instead of none.
    """
    best: tuple[float, Box] | None = None
    for distance in (9.0, 16.0, 26.0, 40.0, 58.0) if must else (9.0, 14.0):
        for angle in (0, 180, 270, 90, 315, 45, 225, 135, *range(15, 360, 15)):  # right, left, above, below, corners
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            middle_x, middle_y = x + dx * (distance + width / 2), y + dy * (distance + height / 2)
            box = Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
            if not box.inside(within):
                continue
            covered = sum(box.overlap(other) for other in taken)
            if covered == 0:
                return box
            if best is None or covered < best[0]:
                best = (covered, box)
    return best[1] if must and best is not None else None
