"""HTML and SVG as values: text is escaped when it becomes markup, so it cannot be forgotten."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Html", "el", "join", "plain", "user"]

VOID = frozenset({"br", "col", "img", "link", "meta", "wbr"})  # elements without an end tag, of those used here

# What cannot be in an HTML document even when escaped: control characters, and halves of surrogate pairs, which file
# names that are not UTF-8 decode to.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Html:
    """Finished markup, placed as it is. A plain `str` is text and will be escaped."""

    text: str


def el(name: str, *children: str | Html | None, at: Mapping[str, str | float | None] | None = None) -> Html:
    """One element.

    Args:
        name: of the element, with classes after dots: `"td.number.soft"`.
        children: text (escaped) or markup; None is left out.
        at: attributes; None leaves one out. Numbers are written short, which keeps pictures small.
    """
    tag, *classes = name.split(".")
    attributes: dict[str, str | float | None] = {"class": " ".join(classes) or None, **(at or {})}
    written = "".join(f' {key}="{_attribute(value)}"' for key, value in attributes.items() if value is not None)
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(children).text}</{tag}>")


def join(children: Iterable[str | Html | None]) -> Html:
    """Children one after another."""
    return Html("".join(_markup(child) for child in children if child is not None))


def plain(text: str) -> str:
    """`text` without what no document may hold; each such character becomes U+FFFD."""
    return UNPRINTABLE.sub("\ufffd", text)


def user(text: str) -> Html:
    """Text that people chose (labels, file names), kept from turning the writing direction of what is around it."""
    return el("bdi", text)


def _markup(child: str | Html) -> str:
    return child.text if isinstance(child, Html) else html.escape(plain(child), quote=False)


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(plain(value), quote=True)
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
