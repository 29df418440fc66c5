"""`read_tflite`: a `.tflite` file as a table with tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...arch import CATALOG, ArchSpec, ClassifierHead, Norm, Row, compose
from ...arch.catalog import VARIANTS
from ...errors import FileFormatError
from ...records import Preprocess
from ..imported import UNTRAINED_CLASSES, Imported, untrained_head
from .chain import Chain, Head, read_chain
from .file import FlatGraph, parse
from .links import Refuse
from .metadata import About, attached_labels, read_metadata
from .operators import evaluate
from .rows import head_tensors, match_rows, padding_of, row_tensors
from .values import Image

__all__ = ["read_tflite"]

# eps as the networks were trained with; a momentum under which running statistics follow within the few hundred steps
# that fine-tuning takes (torch's default). Training from scratch has slim's 0.0003 or 0.01, which takes thousands.
NORM: Final = Norm(eps=1e-3, momentum=0.1)
CROP: Final = 0.875  # slim evaluates on the middle 87.5 % of an image
ALPHAS: Final = tuple(
    dict.fromkeys((1.0, 0.75, 0.5, 0.35, 0.25, 1.4, 1.3, *(percent / 100 for percent in range(10, 201))))
)
NO_HIDDEN: Final[Mapping[str, Any]] = MappingProxyType({"hidden": None, "hidden_norm": False, "act": "none"})
NEAR: Final = 0.1  # of its width, for a range that a file quantises to be taken for a usual one
# Ranges in which float files may want pixels; the arithmetic in front of the first layer says which.
RANGES: Final = {"[0, 255]": (0.0, 255.0), "[0, 1]": (0.0, 1.0), "[-1, 1]": (-1.0, 1.0)}
STEPS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({"int8": (-128, 127), "uint8": (0, 255)})
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def read_tflite(path: Path) -> Imported:
    """A MobileNet classifier or feature extractor from TensorFlow Lite.

    Float32, float16, dynamic range and full-integer files (Jacob et al. 2018), per tensor and per channel. What the
    network is comes from its operators alone. Weights are dequantised; activations are not rounded or clamped again.

    Norms are folded into convolutions in such files. They come back as norms that only add the bias: mean 0, variance
    1 - eps, weight 1. `nets.settle` gives them real statistics before training.

    Raises:
        FileFormatError: not a TFLite file, torn, or a network that no table can hold; names the operator.
        MissingExtraError: the package tflite is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error}", wanted="a .tflite file", do="check the path") from error
    # Numbers that are none are found when all tensors are looked at; until then a damaged file may hold any.
    with np.errstate(all="ignore"):
        return _read(content, path.stem)


def _read(content: bytes, stem: str) -> Imported:
    graph = parse(content)
    about = read_metadata(graph.metadata)
    refuse = Refuse([operator.kind for operator in graph.operators])
    outputs, image = evaluate(graph)
    chain = read_chain(outputs, refuse)
    rows = match_rows(chain.links, refuse)
    padding = padding_of(chain.links, refuse)
    side = _side(image, refuse)
    classes = None if chain.head.classifier is None else int(chain.head.classifier.bias.size)
    spec = _spec(rows, chain.head, stem=stem, resolution=side, channels=image.size[2])
    spec = msgspec.structs.replace(spec, padding=padding)
    tensors = row_tensors(rows, chain.links, spec.norm)
    tensors |= head_tensors(chain.head, spec.norm, hidden_norm=spec.head.hidden_norm)
    if classes is None:
        tensors = untrained_head(spec) | tensors
    preprocess, assumed = _preprocess(chain, graph, about, spec)
    labels = None if classes is None else attached_labels(content, about, classes=classes)
    return Imported(
        spec=spec,
        tensors=tensors,
        preprocess=preprocess,
        labels=labels,
        told={
            "format": "tflite",
            "numbers": _numbers(graph),
            "norms": "folded",
            **dict(chain.head.told),
            **({"classifier": "none in the file"} if classes is None else {}),
            "input": assumed,
            "crop": f"assumed: the middle {CROP:.1%} of the image, as TF-slim evaluates",
            **({"licence": about.licence} if about.licence else {}),
        },
    )


def _side(image: Image, refuse: Refuse) -> int:
    height, width, channels = image.size
    if height != width or channels not in (1, 3):
        raise refuse(-1, f"{height}x{width} pixels of {channels} channels", wanted="a square image, grey or RGB")
    return height


def _spec(rows: Sequence[Row], head: Head, *, stem: str, resolution: int, channels: int) -> ArchSpec:
    """The table, under the name that `find` resolves to these rows, where there is one."""
    classes = UNTRAINED_CLASSES if head.classifier is None else int(head.classifier.bias.size)
    hidden = None if head.hidden is None else int(head.hidden.bias.size)
    bare = [_bare(row) for row in rows]
    for known in _known(rows, resolution=resolution):
        # A feature extractor may end before the hidden layer; another hidden layer is another network.
        same = hidden is None or (hidden, head.act) == (known.head.hidden, known.head.act)
        if same and [_bare(row) for row in known.rows] == bare:
            ends = known.head if hidden is not None else msgspec.structs.replace(known.head, **NO_HIDDEN)
            return msgspec.structs.replace(
                known, norm=NORM, channels=channels, head=msgspec.structs.replace(ends, classes=classes)
            )
    return ArchSpec(
        name="tflite_" + (re.sub(r"[^A-Za-z0-9._-]+", "_", stem) or "file"),
        paper="read from a TensorFlow Lite graph",
        rows=tuple(rows),
        head=ClassifierHead(classes=classes, hidden=hidden, act=head.act),
        norm=NORM,
        resolution=resolution,
        channels=channels,
    )


def _known(rows: Sequence[Row], *, resolution: int) -> Iterator[ArchSpec]:
    """Networks that have names and as many rows of the same kinds, the usual widths first."""
    kinds = [type(row) for row in rows]
    for base, make in {**CATALOG, **VARIANTS}.items():
        if [type(row) for row in make().rows] == kinds:
            for alpha in ALPHAS:
                yield compose(base, alpha=alpha, resolution=resolution)


def _bare(row: Row) -> Row:
    """A row without what says how it scales, which no file holds."""
    return msgspec.structs.replace(row, scaling="width")


def _preprocess(chain: Chain, graph: FlatGraph, about: About, spec: ArchSpec) -> tuple[Preprocess, str]:
    """How pixels become the first layer's numbers, and a sentence on where that is known from.

    The first layer sees scale * number + shift of the file's input numbers; those are slope * pixel + offset.
    """
    channels, tensor = spec.channels, graph.tensors[graph.inputs[0]]
    scale, shift = np.broadcast_to(chain.scale, channels), np.broadcast_to(chain.shift, channels)
    if tensor.type in ("uint8", "int8"):
        zero = float(tensor.zero_point[0]) if tensor.scale.size else 0.0
        step = float(tensor.scale[0]) if tensor.scale.size else 1.0
        pixel_zero = zero if tensor.type == "uint8" else zero + 128  # int8 holds pixel - 128
        slope, offset = np.full(channels, step), np.full(channels, -step * pixel_zero)
        told = f"{tensor.type} pixels, scale {step:g}, zero point {zero:g}, as the file says"
    elif about.mean and about.std and {len(about.mean), len(about.std)} <= {1, channels}:
        mean, std = np.broadcast_to(about.mean, channels), np.broadcast_to(about.std, channels)
        slope, offset = 1 / std, -mean / std
        told = f"(pixel - {_words(about.mean)}) / {_words(about.std)}, as the file's metadata says"
    else:
        slope, offset, told = _assumed(scale, shift, _quantised_range(graph), spec)
    whole, constant = scale * slope, scale * offset + shift
    if not np.isfinite(whole).all() or (whole <= 0).any():
        raise FileFormatError(
            f"the input is scaled by {_words(tuple(whole))} before the first layer",
            wanted="positive numbers, so that there is a mean and a deviation",
            do="convert the network without its own preprocessing",
        )
    preprocess = Preprocess(
        resolution=spec.resolution,
        channels=channels,
        crop_fraction=CROP,
        mean=tuple((-constant / (255 * whole)).tolist()),
        std=tuple((1 / (255 * whole)).tolist()),
    )
    return preprocess, told


def _assumed(
    scale: NDArray[Any], shift: NDArray[Any], quantised: tuple[float, float] | None, spec: ArchSpec
) -> tuple[NDArray[Any], NDArray[Any], str]:
    """Pixels of a float file that does not say how it wants them: slope and offset."""
    channels = spec.channels
    if (scale == 1).all() and not shift.any():
        name, why = "[-1, 1]", "as TensorFlow's networks"
        near = [name for name, ends in RANGES.items() if quantised is not None and _is_near(ends, quantised)]
        if near:
            name, why = near[0], "for those the file quantises"
        elif spec.padding == "symmetric" and channels == 3:  # torch's, where nearly everybody normalises like this
            mean, std = (255 * np.array(numbers) for numbers in IMAGENET)
            return (
                1 / std,
                -mean / std,
                "assumed: ImageNet's mean and deviation, as torch's networks (symmetric padding)",
            )
    else:
        name = min(RANGES, key=lambda name: _strangeness(RANGES[name], float(scale.mean()), float(shift.mean())))
        why = f"for the file scales by {_words(tuple(scale))} and adds {_words(tuple(shift))}"
    low, high = RANGES[name]
    return np.full(channels, (high - low) / 255), np.full(channels, low), f"assumed: pixels in {name}, {why}"


def _strangeness(ends: tuple[float, float], scale: float, shift: float) -> float:
    """How far from -1 to 1 the first layer's numbers would be, were the input in this range."""
    low, high = ends
    width, middle = scale * (high - low), scale * (high + low) / 2 + shift
    return abs(math.log(max(width, 1e-9) / 2)) + abs(middle)


def _quantised_range(graph: FlatGraph) -> tuple[float, float] | None:
    """The numbers that a float input is quantised to hold, where that is the first thing done to it."""
    for operator in graph.operators:
        if operator.kind == "QUANTIZE" and operator.inputs[:1] == graph.inputs and operator.outputs:
            tensor = graph.tensors[operator.outputs[0]]
            if tensor.scale.size == 1 and tensor.type in STEPS:
                low, high = STEPS[tensor.type]
                scale, zero = float(tensor.scale[0]), float(tensor.zero_point[0])
                return scale * (low - zero), scale * (high - zero)
    return None


def _is_near(ends: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(abs(ends[0] - other[0]), abs(ends[1] - other[1])) <= NEAR * (ends[1] - ends[0])


def _words(numbers: Sequence[float]) -> str:
    different = dict.fromkeys(f"{number:g}" for number in numbers)
    return next(iter(different)) if len(different) == 1 else "(" + ", ".join(f"{n:g}" for n in numbers) + ")"


def _numbers(graph: FlatGraph) -> str:
    """What the weights are stored as: "uint8 per tensor" ..."""
    types: set[str] = set()
    for operator in graph.operators:
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(operator.inputs) > 1:
            weight = graph.tensors[operator.inputs[1]]
            if weight.constant is None:  # behind a dequantisation
                types |= {t.type for t in graph.tensors if t.constant is not None and t.type == "float16"}
            else:
                per = "" if weight.scale.size == 0 else " per tensor" if weight.scale.size == 1 else " per channel"
                types.add(weight.type + per)
    return ", ".join(sorted(types))
