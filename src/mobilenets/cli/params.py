"""Kinds of option values that several verbs share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

import click

__all__ = ["DURATION", "SETTING", "Duration", "Setting", "is_bundle"]

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>s|m|h)?", re.IGNORECASE)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in click's newest releases only
    """A length of time: 90s, 25m, 1.5h, or a plain number of seconds. Gives seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, above 0 and finite; anything else fails with the forms that are known."""
        match = _DURATION.fullmatch(str(value).strip())
        seconds = float(match["number"]) * _SECONDS[(match["unit"] or "s").lower()] if match else 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is not a length of time; write 90s, 25m, 1.5h or a number of seconds", param, ctx)
        return seconds


class Setting(click.ParamType):  # type: ignore[type-arg]  # as above
    """One field with its value: lr=0.05. Gives (field, value), the value as text."""

    name = "setting"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Field and value, stripped of spaces; the field's own type is the business of who holds it."""
        if isinstance(value, tuple):  # click converts defaults, too
            return value
        field, equals, content = str(value).partition("=")
        if not equals or not field.strip() or not content.strip():
            self.fail(f"{value!r} is not a setting; write key=value, such as lr=0.05", param, ctx)
        return field.strip(), content.strip()


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle's folder, or the `bundle.json` in it; looks at names only."""
    return path.name == "bundle.json" or (path / "bundle.json").is_file()


DURATION: Final = Duration()
SETTING: Final = Setting()
