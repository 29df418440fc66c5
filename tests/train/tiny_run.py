"""Sixty small images in a folder, and a network of three rows: a training of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm
from mobilenets.files import write_json

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def make_folder(root: Path, *, labels: tuple[str, ...] = tuple(COLOURS), side: int = 16, each: int = 20) -> Path:
    """One folder per class, named by the colour its images have."""
    rng = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(each):
            noise = rng.normal(0, 25, size=(side, side, 3))
            pixels = np.clip(np.array(COLOURS.get(label, (128, 128, 128))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def tiny_spec() -> ArchSpec:
    """Stem, one bottleneck, classifier."""
    return ArchSpec(
        name="tiny",
        paper="none",
        rows=(ConvRow(out=8, stride=2), BottleneckRow(out=8, expanded=16), ConvRow(out=16, kernel=1)),
        head=ClassifierHead(classes=3),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=16,
    )


def write_spec(path: Path) -> Path:
    """`tiny_spec` as the JSON file that MODEL may be."""
    write_json(path, tiny_spec().to_json())
    return path
