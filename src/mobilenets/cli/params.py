"""Kinds of option values that several verbs share."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Final

import click

__all__ = ["AMOUNT", "DURATION", "SETTING", "Amount", "AmountType", "Duration", "Setting", "typed_again"]

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>s|m|h)?", re.IGNORECASE)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>x|k|m|g)?", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
_NOT_TYPED_AGAIN = ("out", "name", "resume", "as_json")  # where to, whether to go on, and how it is shown


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


@dataclass(frozen=True)
class Amount:
    """A bound, or a share of what there is."""

    number: float
    relative: bool
    text: str  # as it was typed

    def __str__(self) -> str:
        return self.text


class AmountType(click.ParamType):  # type: ignore[type-arg]  # as above
    """A bound: 150M, 1.2G, 300k or a plain number; or a share of what there is: 0.5x. Gives an `Amount`."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Amount:
        """An amount above 0; anything else fails with the forms that are known."""
        if isinstance(value, Amount):
            return value
        text = str(value).strip()
        match = _AMOUNT.fullmatch(text)
        unit = (match["unit"] or "").lower() if match else ""
        number = float(match["number"]) * _UNITS.get(unit, 1.0) if match else 0.0
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is no amount; write 0.5x (a share), 150M, 300k or a number", param, ctx)
        return Amount(number, unit == "x", text)


def typed_again(context: click.Context) -> str:
    """The command as it could be typed again, without what says where to and whether to resume."""
    words = ["mobilenets", context.command.name or ""]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            words += [] if value is None else [str(value)]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            # Whether a flag's default is False or unset differs between releases of click.
            words += [parameter.opts[-1]] if value and parameter.name not in _NOT_TYPED_AGAIN else []
        elif parameter.name not in _NOT_TYPED_AGAIN and value not in (None, (), parameter.default):
            for one in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[-1], "=".join(one) if isinstance(one, tuple) else str(one)]
    return shlex.join(words)


AMOUNT: Final = AmountType()
DURATION: Final = Duration()
SETTING: Final = Setting()
