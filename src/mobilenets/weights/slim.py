"""TF-slim's checkpoints of MobileNet V1, V2 and V3 (`research/slim/nets` of tensorflow/models) -> our tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch import BottleneckRow, Norm
from ..errors import FileFormatError
from ..records import Preprocess
from .imported import Imported
from .slim_files import Checkpoint, find_checkpoint, is_slim
from .tensor_bundle import TensorBundle, open_tensor_bundle
from .tensorflow import Base, Part, Scheme, Site, network_of

__all__ = ["is_slim", "read_slim"]

AVERAGE = "/ExponentialMovingAverage"
# Ranges of a network that was trained for 8 bits; the float network has no use for them.
QUANTISATION = re.compile(r"/(weights_quant|act_quant|conv_quant|input_quant|project_quant|add_quant|quant)\b|_quant/")
RESOLUTION = 224
RESOLUTIONS = (96, 128, 160, 192, 224, 240, 256, 288, 320, 384)  # numbers in names that are taken for one
CROP = 0.875  # slim's eval_image_classifier with its inception preprocessing
EPS = 1e-3
# What slim's V3 multiplies its gates by instead of 1/6 (`mobilenet_v3.py`). It changes logits by 4 parts in 10,000,
# so the projections, which the gated maps go into, are multiplied by what it is more.
SIXTH = 0.16667
MOMENTUM: Mapping[str, float] = MappingProxyType({"V1": 0.0003, "V2": 0.003, "V3": 0.003})  # 1 - slim's decays
TENSORS: Mapping[Part, str] = MappingProxyType(
    {
        "kernel": "weights",
        "depthwise_kernel": "depthwise_weights",
        "bias": "biases",
        "gamma": "BatchNorm/gamma",
        "beta": "BatchNorm/beta",
        "moving_mean": "BatchNorm/moving_mean",
        "moving_variance": "BatchNorm/moving_variance",
    }
)


def read_slim(path: Path) -> Imported:
    """A MobileNet that TF-slim trained, with its 1001 classes, or without any.

    Moving averages of the weights are taken where the checkpoint has them, as slim's evaluation does. Strides and
    activations are the paper's.

    Args:
        path: the checkpoint's prefix (`model.ckpt-388500`), its `.index`, one of its `.data-…`, a folder or a `.tgz`
            with one checkpoint. The resolution is not in the file: 224, unless the name of file or folder says
            another (`mobilenet_v2_1.0_96`).

    Raises:
        FileFormatError: no such checkpoint, of the format before TensorFlow 1.0, broken, or not of a MobileNet.
    """
    checkpoint = find_checkpoint(path)
    bundle = open_tensor_bundle(checkpoint.index, checkpoint.shards, what=checkpoint.name)
    scope, names = _variables(bundle, checkpoint)
    base = _family(scope, set(names), checkpoint)
    arrays: dict[str, NDArray[Any]] = {name: bundle.read(key) for name, key in names.items()}
    whole = "Logits/Conv2d_1c_1x1/weights" in names
    if whole and "Logits/Conv2d_1c_1x1/biases" not in names:
        arrays["Logits/Conv2d_1c_1x1/biases"] = np.zeros(arrays["Logits/Conv2d_1c_1x1/weights"].shape[-1], np.float32)
    resolution, said = _resolution(checkpoint)
    spec, tensors = network_of(
        base,
        arrays,
        scheme=Scheme(layer=_slim_layer(scope), tensor=lambda layer, part: f"{layer}/{TENSORS[part]}"),
        head="whole" if whole else "none",
        norm=Norm(eps=EPS, momentum=MOMENTUM[scope]),
        resolution=resolution,
    )
    for index, row in enumerate(spec.rows):
        if isinstance(row, BottleneckRow) and row.squeezed is not None:
            tensors[f"rows.{index}.project.conv.weight"] *= np.float32(SIXTH * 6)
    averaged = sum(key.endswith(AVERAGE) for key in names.values())
    told: dict[str, Any] = {"format": "TF-slim checkpoint", "checkpoint": checkpoint.name}
    if averaged:
        told["averages"] = f"moving averages for {averaged} of {len(names)} variables"
    if any(QUANTISATION.search(key) for key in bundle.entries):
        told["quantisation"] = "trained for 8 bits; the ranges are left out"
    if not whole:
        told["classifier"] = "none in the file: untrained"
    told["resolution"] = said
    preprocess = Preprocess(
        resolution=resolution,
        channels=spec.channels,
        crop_fraction=CROP,
        mean=(0.5,) * spec.channels,
        std=(0.5,) * spec.channels,
    )
    return Imported(spec=spec, tensors=tensors, preprocess=preprocess, told=told)


def _variables(bundle: TensorBundle, checkpoint: Checkpoint) -> tuple[str, dict[str, str]]:
    """The network's version, and its variables: name inside the scope -> key in the checkpoint."""
    for version in MOMENTUM:
        scope = f"Mobilenet{version}/"
        keys = [key for key in bundle.entries if key.startswith(scope) and not QUANTISATION.search(key)]
        variables = {key.removesuffix(AVERAGE) for key in keys}
        # What lies below a variable is an optimizer's: weights/Momentum, weights/RMSProp_1.
        own = {name for name in variables if name.rpartition("/")[0] not in variables}
        if own:
            chosen = {name: name + AVERAGE if name + AVERAGE in bundle.entries else name for name in sorted(own)}
            return version, {name.removeprefix(scope): key for name, key in chosen.items()}
    seen = sorted(bundle.entries)
    raise FileFormatError(
        f"{checkpoint.name} holds {', '.join(seen[:4]) or 'no variables'}{' ...' if len(seen) > 4 else ''}",
        wanted="variables of MobilenetV1, MobilenetV2 or MobilenetV3, as slim's networks name them",
        do="import a classification checkpoint of TF-slim",
    )


def _family(version: str, names: set[str], checkpoint: Checkpoint) -> Base:
    if version == "V1":
        return "mobilenet_v1"
    if version == "V2":
        return "mobilenet_v2"
    blocks = [int(match[1]) for name in names if (match := re.match(r"expanded_conv_(\d{1,3})/", name))]
    if not blocks:
        raise FileFormatError(
            f"{checkpoint.name} has no variables MobilenetV3/expanded_conv_1 and so on",
            wanted="the blocks of MobilenetV3",
            do="import a whole checkpoint",
        )
    excites = any("/squeeze_excite/" in name for name in names)
    if max(blocks) > 10:  # Small's blocks end with 10, Large's with 14
        return "mobilenet_v3_large" if excites else "mobilenet_v3_large_minimalistic"
    return "mobilenet_v3_small" if excites else "mobilenet_v3_small_minimalistic"


def _slim_layer(version: str) -> Callable[[Site], str]:
    """Our layers' names in slim, inside the network's scope."""

    def named(site: Site) -> str:
        layer, row = site.layer.name, site.row
        if row is None:
            return "Conv_2" if layer == "hidden" else "Logits/Conv2d_1c_1x1"
        if version == "V1":
            return "Conv2d_0" if row == 0 else f"Conv2d_{row}_{'depthwise' if layer == 'depthwise' else 'pointwise'}"
        if layer == "conv":
            return "Conv" if row == 0 else "Conv_1"
        block = "expanded_conv" if row == 1 else f"expanded_conv_{row - 1}"
        return f"{block}/{ {'squeeze': 'squeeze_excite/Conv', 'excite': 'squeeze_excite/Conv_1'}.get(layer, layer) }"

    return named


def _resolution(checkpoint: Checkpoint) -> tuple[int, str]:
    """From the names of the checkpoint and of the folders it lies in, the nearest first."""
    for part in checkpoint.trail:
        found = [int(number) for number in re.findall(r"_(\d{2,3})(?![\d])", part) if int(number) in RESOLUTIONS]
        if found:
            return found[0], f"{found[0]}, by the name {part}"
    return RESOLUTION, f"{RESOLUTION}, for neither the file nor its name says one"
