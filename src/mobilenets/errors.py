"""Every error that `mobilenets` raises on purpose.

    MobileNetsError
    ├── UsageError            bad use or bad input; the CLI exits with 2
    │   ├── UnknownNameError  a name that no table holds; says which known names are near it
    │   ├── SpecError         an architecture that cannot be built; names the row and the field
    │   ├── RecipeError       a recipe that cannot be followed
    │   ├── DataError         images or folders that cannot be used
    │   ├── FileFormatError   a bundle, artifact, report or image file that cannot be read
    │   └── MissingExtraError a part of the package that is not installed
    └── CheckError           everything was well-formed, but a promise does not hold; the CLI exits with 1
        ├── GateError         an export, or a quantised model, that does not answer like its source
        └── BudgetError       no candidate meets the budget

Each message says what was got, what was wanted, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BudgetError",
    "CheckError",
    "DataError",
    "FileFormatError",
    "GateError",
    "MissingExtraError",
    "MobileNetsError",
    "RecipeError",
    "SpecError",
    "UnknownNameError",
    "UsageError",
    "first_line",
]


class MobileNetsError(Exception):
    """The root of the tree.

    Args:
        got: what was found, with its value ("image is 31x40").
        wanted: what would have been right ("sides must be multiples of 32").
        do: what the reader can do now ("pad to 32x64").
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, got: str, *, wanted: str, do: str) -> None:
        super().__init__(f"{got}; {wanted}; {do}")
        self.got = got
        self.wanted = wanted
        self.do = do


class UsageError(MobileNetsError, ValueError):
    """Bad use or bad input. Also a `ValueError`, so that callers without our tree can catch it."""

    exit_code: ClassVar[int] = 2


class UnknownNameError(UsageError):
    """A name that is not in a table.

    Args:
        kind: what the name should be ("model", "format").
        name: the name as given.
        known: every name that would have been right.
    """

    def __init__(self, kind: str, name: str, *, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        shown = near or names[:8]
        more = "" if near or len(names) <= 8 else f" and {len(names) - 8} more"
        super().__init__(
            f"{kind} {name!r} is not known",
            wanted=("near it: " if near else "known: ") + ", ".join(shown) + more,
            do="use one of these names",
        )
        self.kind = kind
        self.name = name
        self.near = tuple(near)


class SpecError(UsageError):
    """An architecture that cannot be built."""


class RecipeError(UsageError):
    """A training recipe that cannot be followed."""


class DataError(UsageError):
    """Images or folders that cannot be used."""


class FileFormatError(UsageError):
    """A file that cannot be read as what it should be."""


class MissingExtraError(UsageError):
    """A part of the package that is not installed.

    Args:
        package: the module that could not be imported.
        extra: the extra of `mobilenets` that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            wanted=f"this command needs the extra [{extra}]",
            do=f'run: pip install "mobilenets[{extra}]"',
        )


class CheckError(MobileNetsError):
    """Everything was well-formed, but a promise does not hold."""

    exit_code: ClassVar[int] = 1


class GateError(CheckError):
    """A converted model does not answer like its source.

    Args:
        failed: names of the gates that it did not pass, where gates were what was asked.
    """

    def __init__(self, got: str, *, wanted: str, do: str, failed: Iterable[str] = ()) -> None:
        super().__init__(got, wanted=wanted, do=do)
        self.failed = tuple(failed)


class BudgetError(CheckError):
    """No candidate meets the budget."""


def first_line(error: BaseException) -> str:
    """What another library's exception says, without the stack of its own that it may carry; or what it is called."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
