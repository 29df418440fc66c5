"""The 1000 classes of ILSVRC 2012: their names, and the WordNet identifiers that name ImageNet's folders. No torch."""

from __future__ import annotations

import functools
from importlib import resources

__all__ = ["imagenet_labels", "imagenet_synsets"]


@functools.cache
def _rows() -> tuple[tuple[str, ...], tuple[str, ...]]:
    text = resources.files(__package__).joinpath("imagenet.tsv").read_text(encoding="utf-8")
    synsets, names = zip(*(line.split("\t") for line in text.splitlines()), strict=True)
    return tuple(synsets), tuple(names)


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes in their order, by short English names, each there once (as torchvision words them)."""
    return _rows()[1]


def imagenet_synsets() -> tuple[str, ...]:
    """Their WordNet identifiers in the same order: "n01440764" ..."""
    return _rows()[0]
