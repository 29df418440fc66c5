"""The frame of a page: one HTML document that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from .markup import Html, el

__all__ = ["document", "section"]


def document(title: str, *children: Html) -> str:
    """Pictures inside, no network, readable without scripts and on paper.

    A policy in its head forbids the browser to load anything, and to run any script but the page's own.

    Args:
        title: for the browser's tab.
        children: what the page holds, from its top.
    """
    style, script = (resources.files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    head = el(
        "head",
        el("meta", at={"charset": "utf-8"}),
        el("meta", at={"http-equiv": "Content-Security-Policy", "content": _policy(style, script)}),
        el("meta", at={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", at={"name": "color-scheme", "content": "light dark"}),
        el("title", title),
        el("link", at={"rel": "icon", "href": "data:,"}),
        Html(f"<style>{style}</style>"),
    )
    body = el("body", el("main", *children), Html(f"<script>{script}</script>"))
    return "<!doctype html>\n" + el("html", head, body, at={"lang": "en"}).text + "\n"


def section(title: str, name: str, *children: Html) -> Html:
    """A part of the page with its heading; `name` is what links to it say."""
    return el("section", el("h2", title, at={"id": name}), *children, at={"aria-labelledby": name})


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere; of styles and scripts only those whose digest is named."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
