"""A network that int8 ruins and training for int8 mends, and pictures for it: everything is known beforehand.

The brightness of a picture is one channel. Another channel is always zero, so that float32 does not notice what weight
reads it: 127 for each class, beside 0.3 for brightness. The greatest weight of a filter is at most 127 steps, so a step
is at least one, and 0.3 rounds to zero, whatever ranges were seen. A bias moves all answers alike, nothing between the
two layers can be scaled, and a third of two rows in float32 is none. Training can mend it: the weight only has to pass
half a step.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mobilenets.arch import ArchSpec, ClassifierHead, ConvRow, Norm
from mobilenets.bundle import Bundle
from mobilenets.data import Dataset, open_dataset
from mobilenets.nets import build, tensors_of
from mobilenets.records import Preprocess

UNREAD = 127.0
READ = 0.3
GAIN = 100.0  # brightness is then within 57 either way
LEVELS = (("bright", 200), ("dark", 60), ("middling", 130))
SPEC = ArchSpec(
    name="drowned",
    paper="none",
    rows=(ConvRow(out=4, stride=2, act="none"),),
    head=ClassifierHead(classes=3, dropout=0.0),
    norm=Norm(eps=1e-5, momentum=0.1),
    resolution=8,
)


def shades(root: Path) -> Dataset:
    """60 images to train on and 15 to test on, dark, middling and bright; seed 0."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for label, level in LEVELS:
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                noise = rng.normal(level, 20, size=(8, 8, 3))
                pixels = np.clip(noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    return open_dataset(root)


def drowned(*, unread: float = UNREAD) -> Bundle:
    """It tells all shades apart in float32; with nothing `unread`, in int8 too."""
    tensors = {name: np.zeros_like(value) for name, value in tensors_of(build(SPEC)).items()}
    for name, value in tensors.items():
        if name.endswith(("norm.weight", "running_var")):
            value[:] = 1.0
    filters = tensors["rows.0.conv.conv.weight"]
    filters[1] = GAIN / filters[1].size  # the mean of the pixels that it sees
    tensors["head.classifier.weight"][:, 0] = unread
    tensors["head.classifier.weight"][:, 1] = [READ, -READ, 0.0]
    tensors["head.classifier.bias"][:] = [0.0, 0.0, 5.0]  # for what is neither bright nor dark
    return Bundle(
        spec=SPEC,
        task="classify",
        labels=tuple(label for label, _ in LEVELS),
        preprocess=Preprocess(resolution=8, channels=3, mean=(128 / 255,) * 3, std=(128 / 255,) * 3),
        tensors=tensors,
    )
