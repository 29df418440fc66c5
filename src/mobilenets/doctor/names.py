"""Class names that a file carries in its metadata."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["NAME_KEYS", "names_in"]

NAME_KEYS: Final = ("labels", "names", "classes", "label_names")  # what exporters call them


def names_in(metadata: Mapping[str, str], outputs: int | None) -> tuple[str, ...]:
    """One name for each output, or nothing: a list or dict as Python or JSON writes it, one a line, or with commas."""
    for key in NAME_KEYS:
        text = metadata.get(key)
        if not text:
            continue
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            parts = re.split(r"\n" if "\n" in text.strip() else ",", text)  # ImageNet's names have commas in them
            found = [part.strip() for part in parts if part.strip()]
        values = list(found.values()) if isinstance(found, dict) else found
        if isinstance(values, list | tuple) and len(values) == outputs:
            return tuple(str(value) for value in values)
    return ()
