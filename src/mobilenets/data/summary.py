"""What was found in a data set, file by file: nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from ..images import FaultKind, Note

__all__ = ["Action", "Problem", "ProblemKind", "ScanSummary", "SplitName"]

SplitName = Literal["train", "val", "test"]
Action = Literal["used", "left out"]
ProblemKind = (
    FaultKind | Note | Literal["not an image file", "outside a class folder", "empty folder", "link to a folder above"]
)


class Problem(msgspec.Struct, frozen=True):
    """One file that is not simply used: converted on the way ("used"), or "left out"."""

    path: str  # relative to the data set's folder
    kind: ProblemKind
    action: Action
    split: SplitName | None = None  # where it belonged; None for a file in no split
    label: str | None = None


class ScanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Images per split and class, every problem, and notes on the data set as a whole.

    Every file below a folder is in exactly one place: `counts`, a problem whose action is "left out", or `ignored`. Of
    a table only the files are looked at that it names. Opening reads no pixels; what
    decoding finds is added by `with_problems`.
    """

    source: str
    counts: dict[SplitName, dict[str, int]]
    images: dict[SplitName, int] = {}  # where an image may have several labels or none; empty: the sums of `counts`
    problems: tuple[Problem, ...] = ()
    ignored: int = 0  # hidden files and what systems leave behind: .DS_Store, __MACOSX, Thumbs.db
    notes: tuple[str, ...] = ()

    def total(self, split: SplitName) -> int:
        """The number of images of a split; 0 when it is absent."""
        return self.images[split] if split in self.images else sum(self.counts.get(split, {}).values())

    def with_problems(self, problems: Iterable[Problem]) -> ScanSummary:
        """A new summary that also holds what decoding found; images that turned out broken no longer count.

        Args:
            problems: those of the caches of this data set. One that is known already is not added again.
        """
        known = set(self.problems)
        fresh = tuple(problem for problem in dict.fromkeys(problems) if problem not in known)
        counts = {split: dict(of_split) for split, of_split in self.counts.items()}
        images = dict(self.images)
        for problem in fresh:
            if problem.action == "left out" and problem.split is not None:
                if problem.label is not None:
                    counts[problem.split][problem.label] -= 1
                if problem.split in images:
                    images[problem.split] -= 1
        return msgspec.structs.replace(self, counts=counts, images=images, problems=self.problems + fresh)

    def describe(self, *, first: int = 3) -> str:
        """A few lines for a person: how many images, how many problems of each kind, and the first few of them."""
        splits = ", ".join(f"{split} {self.total(split):,}" for split in self.counts)
        classes = len({label for of_split in self.counts.values() for label in of_split})
        what = f"with {classes} labels" if self.images else f"of {classes} classes"
        lines = [f"{self.source}: {sum(map(self.total, self.counts)):,} images {what} ({splits})"]
        for action, verb in (("left out", "left out"), ("used", "used after a conversion")):
            of_action = [problem for problem in self.problems if problem.action == action]
            if not of_action:
                continue
            kinds = Counter(problem.kind for problem in of_action)
            shown = ", ".join(problem.path for problem in of_action[:first])
            more = f" and {len(of_action) - first:,} more" if len(of_action) > first else ""
            told = ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common())
            lines.append(f"{len(of_action):,} {verb} ({told}): {shown}{more}")
        if self.ignored:
            lines.append(f"{self.ignored:,} hidden or system files ignored")
        return "\n".join([*lines, *self.notes])
