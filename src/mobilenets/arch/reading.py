"""What is wrong with an architecture that somebody wrote: the row, the field, what it holds, what it may hold."""

from __future__ import annotations

import re
import typing
from typing import Any, Literal

import msgspec

from ..errors import SpecError

__all__ = ["explained"]

_HINT = "compare with: mobilenets info mobilenet_v2 --spec"
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object with fields",
}


def explained(error: msgspec.ValidationError, content: Any, *, root: type[msgspec.Struct]) -> SpecError:
    """The error of msgspec in the terms of the table.

    Args:
        error: what converting `content` to `root` raised.
        content: dicts and lists, as from JSON.
        root: the type that was wanted.
    """
    text, _, path = str(error).partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    if isinstance(error.__cause__, SpecError):
        cause = error.__cause__
        return SpecError(f"{where}: {cause.got}" if where else cause.got, wanted=cause.wanted, do=cause.do)
    place = where or "the architecture"
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"\w+", where)]
    quoted = re.findall(r"`([^`]*)`", text)
    if text.startswith("Object missing required field") and quoted[0] == "type":
        return SpecError(
            f"{place} has no type", wanted=f"one of {_tags(root, content, steps)}", do=f"add it to {place}"
        )
    if text.startswith("Object missing required field"):
        needed = ", ".join(f.name for f in msgspec.structs.fields(_type_at(root, content, steps)) if f.required)
        return SpecError(f"{place} has no {quoted[0]}", wanted=f"at least {needed}", do=f"add it to {place}")
    if text.startswith("Object contains unknown field"):
        fields = _fields(_type_at(root, content, steps))
        return SpecError(f"{place} has a field {quoted[0]}", wanted=f"only {fields}", do=f"correct it in {place}")
    found = _value_at(content, steps)
    if text.startswith("Invalid value") and steps[-1:] == ["type"]:
        return SpecError(
            f"{place} is {found!r}", wanted=f"one of {_tags(root, content, steps[:-1])}", do=f"correct {place}"
        )
    if text.startswith("Invalid enum value"):
        choices = ", ".join(str(choice) for choice in _choices(_type_at(root, content, steps)))
        return SpecError(f"{place} is {found!r}", wanted=f"one of {choices}", do=f"correct {place}")
    if text.startswith("Expected") and quoted:
        wanted = " or ".join(_TYPES.get(name.strip(), name.strip()) for name in quoted[0].split("|"))
        return SpecError(f"{place} is {_shortened(found)}", wanted=wanted.replace("null", "null for none"), do=_HINT)
    return SpecError(f"{place}: {text}", wanted="the fields of ArchSpec, its rows and head", do=_HINT)


def _type_at(root: Any, content: Any, steps: list[int | str]) -> Any:
    """The type that is wanted at a place; of a union, the member that the content names by its `type`."""
    wanted: Any = root
    for step in steps:
        wanted = typing.get_args(wanted)[0] if isinstance(step, int) else typing.get_type_hints(wanted)[step]
        content = _value_at(content, [step])
        for member in typing.get_args(wanted):
            tag = getattr(getattr(member, "__struct_config__", None), "tag", None)
            if tag is not None and isinstance(content, dict) and content.get("type") == tag:
                wanted = member
                break
    return wanted


def _value_at(content: Any, steps: list[int | str]) -> Any:
    for step in steps:
        content = content[step]
    return content


def _tags(root: Any, content: Any, steps: list[int | str]) -> str:
    union = _type_at(root, content, steps[:-1])
    union = typing.get_args(union)[0] if isinstance(steps[-1], int) else typing.get_type_hints(union)[steps[-1]]
    return ", ".join(member.__struct_config__.tag for member in typing.get_args(union))


def _fields(struct: Any) -> str:
    config = struct.__struct_config__
    return ", ".join(([config.tag_field] if config.tag else []) + list(struct.__struct_fields__))


def _choices(wanted: Any) -> tuple[Any, ...]:
    if typing.get_origin(wanted) is Literal:
        return typing.get_args(wanted)
    return tuple(choice for member in typing.get_args(wanted) for choice in _choices(member))


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
