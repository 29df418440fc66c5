"""Things that several tests make."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mobilenets.arch import CATALOG, ArchSpec, compose
from mobilenets.bundle import Bundle
from mobilenets.export.outside import CONVERTER_VARIABLE, CONVERTERS, can_convert
from mobilenets.nets import build, tensors_of
from mobilenets.nets.parts import LayerScale
from mobilenets.records import Format, Precision, Preprocess
from mobilenets.runtime import DEFAULT_ENGINES, is_installed
from mobilenets.runtime.engines.open_vino import import_openvino
from mobilenets.train.loader import normalise
from mobilenets.train.machine import on_threads

CENTRED = (128 / 255,) * 3  # the mean of new networks
# Rows that smaller networks have as well, many times: the time of a test goes into them, and little else.
LARGE = ("mobilenet_v4_conv_medium", "mobilenet_v4_conv_large", "mobilenet_v4_hybrid_large")


def patches(count: int, side: int, channels: int = 3) -> np.ndarray:
    """Pictures of four patches of colour: uint8 (count, side, side, channels). Networks tell them apart."""
    coarse = np.random.default_rng(3).integers(0, 256, (count, 2, 2, channels), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, -(-side // 2), -(-side // 2), 1), np.uint8))[:, :side, :side]


class DarkAndLight:
    """Training images of `patches`, uint8 (count, side, side, 3), told apart by how light they are."""

    def __init__(self, count: int = 96, side: int = 16) -> None:
        self.uniform = np.ascontiguousarray(patches(count, side))
        light = self.uniform.mean(axis=(1, 2, 3))
        self.targets = (light > np.median(light)).astype(np.int64)

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


def write_dark_and_light(folder: Path, count: int) -> Path:
    """`count` such pictures of 16 pixels in two classes of as many, dark/ and light/."""
    pixels = patches(count, 16)
    order = np.argsort(pixels.mean(axis=(1, 2, 3)))
    for name, index in (("dark", order[: count // 2]), ("light", order[count // 2 :])):
        (folder / name).mkdir()
        for number, i in enumerate(index):
            Image.fromarray(pixels[i]).save(folder / name / f"{number:03}.png")
    return folder


def settled_bundle(spec: ArchSpec) -> Bundle:
    """A bundle that behaves like a trained one: norms hold the statistics of real activations, logits differ.

    On one thread, whatever the test before it left: sums of another order move the statistics' last digits, and with
    them, in a deep untrained network, which bytes lie halfway.
    """
    torch.manual_seed(5)
    network = build(spec)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = 1.0
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.1)
        elif isinstance(part, LayerScale):
            part.gamma.data.uniform_(0.5, 1.5)
        elif isinstance(part, nn.Linear):
            part.weight.data.normal_(0, 0.3)
            if part.bias is not None:
                part.bias.data.normal_(0, 0.1)
    preprocess = Preprocess(
        resolution=spec.resolution,
        channels=spec.channels,
        mean=(0.4, 0.5, 0.6)[: spec.channels],
        std=(0.2, 0.25, 0.3)[: spec.channels],
    )
    with torch.no_grad(), on_threads(1):
        network.train()(normalise(torch.from_numpy(patches(64, spec.resolution, spec.channels)), preprocess))
    return Bundle(
        spec=spec,
        task="classify",
        labels=tuple(f"class {i}" for i in range(spec.head.classes)),
        preprocess=preprocess,
        tensors=tensors_of(network),
    )


def bundle_of(base: str, *, side: int = 32, mean: tuple[float, ...] = CENTRED, **changes: Any) -> Bundle:
    """A narrow network of a family, settled, for int8; `changes` are fields of its table."""
    spec = compose(base, alpha=0.25, resolution=side, stride="small", classes=7)
    bundle = settled_bundle(msgspec.structs.replace(spec, **changes))
    return replace(bundle, preprocess=msgspec.structs.replace(bundle.preprocess, mean=mean, std=(0.25,) * len(mean)))


def catalogue(*names: str, slow: tuple[str, ...] = LARGE) -> list[Any]:
    """Networks as a test's parameters, all of the catalogue unless named; those in `slow` are of the slow tier."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in names or sorted(CATALOG)}
    return [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()]


def needs(format: Format, precision: Precision = "fp32") -> pytest.MarkDecorator:
    """Skips where the engine that a format is held against the gate with is not installed, or cannot compute so."""
    if format in CONVERTERS:
        reason = f"{CONVERTERS[format].package} is neither installed nor in the environment of {CONVERTER_VARIABLE}"
        return pytest.mark.skipif(not can_convert(format), reason=reason)
    engine = DEFAULT_ENGINES[format]
    if is_installed(engine) and (format, precision) == ("openvino", "bf16"):
        return pytest.mark.skipif(not _openvino_has_bfloat16(), reason="this processor has no bfloat16")
    return pytest.mark.skipif(not is_installed(engine), reason=f"{engine} is not installed")


@cache
def _openvino_has_bfloat16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
