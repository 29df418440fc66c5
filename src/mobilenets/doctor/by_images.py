"""Rules about answers to labelled images: how the file would rather be fed, and which classes its outputs are."""

from __future__ import annotations

from typing import Final

from .records import Fed, Finding
from .seen import Seen

__all__ = ["answers_at_chance", "fed_wrongly", "labels_shifted"]

CHANCE: Final = 0.05  # for all comparisons of a question together (Bonferroni)
FEWEST: Final = 30  # images from which on chance can be told from an answer


def fed_wrongly(seen: Seen) -> Finding | None:
    """Another usual way to feed the images is right more often, beyond chance."""
    if seen.feeding is None or labels_shifted(seen) is not None:  # then no way without the shift means anything
        return None
    said, *others = seen.feeding.ways
    better = [way for way in others if way.top1 > said.top1 and way.p * len(others) <= CHANCE]
    if not better:
        return None
    best = max(better, key=lambda way: way.top1)
    told = f"fed {best.name}, {_share(best)} of {seen.feeding.n} images are right; fed {said.name}, {_share(said)}; "
    told += f"p = {best.p:.1g} (McNemar, {len(others)} ways tried)"
    alike = [way.name for way in better if way is not best and way.best_p > CHANCE]
    told += f"; these images do not tell it from {' or '.join(alike)}" if alike else ""
    return Finding(
        problem="fed wrongly",
        weight="wrong",
        evidence=told,
        costs=f"{100 * (best.top1 - said.top1):.1f} points of accuracy",
        remedy=_remedy(seen, said, best),
    )


def _share(way: Fed) -> str:
    return f"{100 * way.top1:.1f} % ({100 * way.low:.1f} to {100 * way.high:.1f})"


def _remedy(seen: Seen, said: Fed, best: Fed) -> str:
    if seen.artifact is not None:
        steps = []
        if best.order != said.order:
            steps.append("its weights expect blue first: swap the first layer's input channels in the bundle")
        if (best.mean, best.std) != (said.mean, said.std):
            steps.append(f"set mean = {_numbers(best.mean)} and std = {_numbers(best.std)} where the weights come from")
        return " and ".join(steps) + ", and export again"
    swap = "[..., ::-1]" if best.order == "BGR" else ""
    return f"x = (rgb{swap} / 255 - {_turned(best.mean, best.order)}) / {_turned(best.std, best.order)}"


def _turned(values: tuple[float, ...], order: str) -> str:
    return _numbers(values[::-1] if order == "BGR" else values)


def _numbers(values: tuple[float, ...]) -> str:
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else "(" + ", ".join(shown) + ")"


def labels_shifted(seen: Seen) -> Finding | None:
    """The outputs stand one beside the labels."""
    feeding = seen.feeding
    if feeding is None or not feeding.shifts:
        return None
    straight = max(way.top1 for way in feeding.ways)
    best = max(feeding.shifts, key=lambda each: each.top1)
    tried = len(feeding.shifts) * len(feeding.ways)
    if best.top1 <= straight or best.p * tried > CHANCE:
        return None
    told = f"if class k is the output k {'+' if best.shift > 0 else '-'} {abs(best.shift)} (fed {best.way}), "
    told += f"{100 * best.top1:.1f} % of {feeding.n} images are right instead of {100 * straight:.1f} %; "
    told += f"p = {best.p:.1g} (McNemar, {tried} pairs of a shift and a way tried)"
    return Finding(
        problem="labels shifted",
        weight="wrong",
        evidence=told,
        costs="every answer has its neighbour's name",
        remedy='put "background" before the labels'
        if best.shift > 0
        else "take the first label away, there is no such output",
    )


def answers_at_chance(seen: Seen) -> Finding | None:
    """However it is fed, it is not right more often than a guess."""
    feeding = seen.feeding
    if feeding is None or feeding.n < FEWEST or feeding.classes < 2 or labels_shifted(seen) is not None:
        return None
    best = max(feeding.ways, key=lambda way: way.top1)
    guess = 1 / feeding.classes
    if best.low > guess:
        return None
    return Finding(
        problem="answers at chance",
        weight="wrong",
        evidence=f"of {len(feeding.ways)} ways to feed it the best gets {_share(best)} of {feeding.n} images right; a "
        f"guess among {feeding.classes} classes gets {100 * guess:.1f} %; its classes are taken from {feeding.labels}",
        costs="its answers mean nothing on these images",
        remedy="check that its outputs are these classes in this order, and that the weights are whole",
    )
