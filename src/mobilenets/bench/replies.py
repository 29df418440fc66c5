"""How a process that measures answers the one that asked: JSON on standard output, its errors among it."""

from __future__ import annotations

import os
from typing import Any, TextIO

from .. import errors
from ..errors import MissingExtraError, MobileNetsError, UnknownNameError

__all__ = ["error_of", "own_output", "reply_of"]


def own_output() -> TextIO:
    """A private copy of standard output for replies; whatever a library prints there goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def reply_of(error: MobileNetsError) -> dict[str, Any]:
    """An error as a reply."""
    return {"error": type(error).__name__, "got": error.got, "wanted": error.wanted, "do": error.do}


def error_of(reply: dict[str, Any], *, name: str) -> MobileNetsError:
    """The error of a reply again, naming what was measured."""
    kind = getattr(errors, reply["error"])
    if issubclass(kind, UnknownNameError | MissingExtraError):  # are made of other parts
        kind = errors.UsageError
    got = reply["got"] if name in reply["got"] else f"{name}: {reply['got']}"
    error: MobileNetsError = kind(got, wanted=reply["wanted"], do=reply["do"])
    return error
