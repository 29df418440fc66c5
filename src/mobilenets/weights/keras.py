"""Keras applications' MobileNets (V1, V2, V3) -> our tables.

Layers are told by their names where the file keeps them, else by their order; both are the same in
`keras.applications` since 2018. Strided layers are padded as TensorFlow's SAME for the even sizes that a resolution
of a multiple of 32 gives; for odd ones V1 alone pads otherwise (zeros at the end only).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch import CATALOG, ArchSpec, Norm
from ..errors import FileFormatError
from ..records import Preprocess
from .imported import Imported
from .keras_file import KerasLayer, read_keras_file
from .tensorflow import Base, Head, Part, Scheme, Site, network_of, sites

__all__ = ["read_keras"]

RESOLUTION = 224  # what Keras' own weights files are for where they say nothing; weights fit any
CROP = 0.875  # as TF-slim evaluates, from where Keras' V1 to V3 weights were converted
EPS = 1e-3
DEEPEST = 8  # models inside models
MOMENTUM: Mapping[str, float] = {"v1": 0.01, "v2": 0.001, "v3": 0.001}  # 1 - Keras' own
BASES: tuple[Base, ...] = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small_minimalistic",
)
# The layer behind the pooling: V2's was called Logits at first.
CLASSIFIERS = ("conv_preds", "predictions", "logits")


def read_keras(path: Path) -> Imported:
    """A MobileNet of Keras applications, whole or without its top, or as the backbone under one dense layer.

    Args:
        path: `.weights.h5` (Keras 3), `.h5` (Keras 2 weights, or a whole model), or `.keras`.

    Raises:
        FileFormatError: not a Keras file, not a MobileNet, or tensors that do not fit; names them.
        MissingExtraError: h5py is not installed.
    """
    file = read_keras_file(path)
    layers, base = _recognised(file.layers, path)
    arrays: dict[str, NDArray[Any]] = {}
    for layer in layers:
        for part, array in layer.arrays.items():
            key = f"{layer.name}/{part}"
            if key in arrays:
                raise FileFormatError(
                    f"{path} has {key} twice",
                    wanted="one MobileNet in the file",
                    do="save that part of the model alone",
                )
            arrays[key] = array
    head = _find_head(arrays, base)
    told: dict[str, Any] = {"format": f"Keras {file.layout}"}
    if file.version is not None:
        told["keras"] = file.version
    if not layers[0].named:
        told["layers"] = "told by their order, for the file keeps no names"
    config = tuple(_configs(file.config))
    if head == "none":
        told["classifier"] = "none in the file: untrained"
    elif arrays["classifier/kernel"].shape[-1] == 1:
        _as_two_classes(arrays)
        told["outputs"] = "one in the file, for class 1 against 0; two here, the first always 0"
    elif [settings["activation"] for _, settings in config if "activation" in settings][-1:] == ["sigmoid"]:
        raise FileFormatError(
            f"{path} ends with a sigmoid over several classes, so that several may hold at once",
            wanted="one class per image",
            do="import its weights alone, if that is what they are for",
        )
    resolution, told["resolution"] = _resolution(config, told, path)
    spec, tensors = network_of(
        base,
        arrays,
        scheme=Scheme(layer=_keras_layer(base), tensor=_keras_tensor),
        head=head,
        norm=Norm(eps=_eps(config, path), momentum=MOMENTUM[base.split("_")[1]]),
        resolution=resolution,
    )
    if base == "mobilenet_v1" and _meets_odd(spec):
        told["padding"] = f"Keras pads V1 at odd sizes otherwise than here, and {resolution} pixels lead to some"
    mean, std, told["preprocess"] = _normalisation(config, path)
    preprocess = Preprocess(
        resolution=resolution,
        channels=spec.channels,
        crop_fraction=CROP,
        mean=(mean,) * spec.channels,
        std=(std,) * spec.channels,
    )
    return Imported(spec=spec, tensors=tensors, preprocess=preprocess, told=told)


def _keras_layer(base: Base) -> Any:
    """Our layers' names in Keras, lower case. TF-Keras writes V3's with slashes and its norms as BatchNorm."""

    def named(site: Site) -> str:
        layer, row = site.layer.name, site.row
        if row is None:
            return "conv_2" if layer == "hidden" else "classifier"
        if layer == "conv":
            first = {"v1": "conv1", "v2": "conv1", "v3": "conv"}[base.split("_")[1]]
            return first if row == 0 else "conv_1"
        if base == "mobilenet_v1":
            return f"conv_{'dw' if layer == 'depthwise' else 'pw'}_{row}"
        suffix = {"squeeze": "squeeze_excite_conv", "excite": "squeeze_excite_conv_1"}.get(layer, layer)
        if row == 1:
            return f"expanded_conv_{suffix}"
        return f"{'block' if base == 'mobilenet_v2' else 'expanded_conv'}_{row - 1}_{suffix}"

    return named


def _keras_tensor(layer: str, part: Part) -> str:
    if part in ("kernel", "depthwise_kernel"):
        return f"{layer}/kernel"
    return f"{layer}/{part}" if part == "bias" else f"{layer}_bn/{part}"


def _plain(name: str) -> str:
    """One spelling for Keras 2's and 3's: Conv/BatchNorm -> conv_bn; bn_Conv1 (V2's stem) -> conv1_bn."""
    name = name.lower().replace("/", "_").replace("_batchnorm", "_bn")
    return "conv1_bn" if name == "bn_conv1" else name


def _recognised(layers: Sequence[KerasLayer], path: Path) -> tuple[list[KerasLayer], Base]:
    """Layers by their plain names, and the family that these are of."""
    if any(layer.named for layer in layers):
        plain = [KerasLayer(_plain(layer.name), layer.group, True, layer.arrays) for layer in layers]
        base = _family({layer.name for layer in plain})
        if base is not None:
            return plain, base
    return _by_order(layers, path)


def _family(names: set[str]) -> Base | None:
    if {"conv_dw_1", "conv_pw_1"} & names:
        return "mobilenet_v1"
    if any(name.startswith("block_") and name.endswith(("_expand", "_depthwise", "_project")) for name in names):
        return "mobilenet_v2"
    blocks = {name.split("_")[2] for name in names if name.startswith("expanded_conv_") and name.count("_") >= 3}
    numbers = {int(block) for block in blocks if block.isdigit() and len(block) < 4}
    if not numbers:
        return None
    excites = any("squeeze_excite" in name for name in names)
    if max(numbers) > 10:  # Small's blocks end with 10, Large's with 14
        return "mobilenet_v3_large" if excites else "mobilenet_v3_large_minimalistic"
    return "mobilenet_v3_small" if excites else "mobilenet_v3_small_minimalistic"


def _by_order(layers: Sequence[KerasLayer], path: Path) -> tuple[list[KerasLayer], Base]:
    """Names given by the order of convolutions, depthwise convolutions and norms, which a family is also known by."""
    groups = Counter(layer.group for layer in layers if _kind(layer) == "norm")
    backbone = groups.most_common(1)[0][0] if groups else None
    inside = {kind: [n for n in layers if n.group == backbone and _kind(n) == kind] for kind in KINDS}
    numbers = {kind: len(found) for kind, found in inside.items()}
    for base in BASES:
        names = _names_in_order(base)
        heads = 0 if base == "mobilenet_v2" else len(names["head"])
        if any(numbers[kind] != len(names[kind]) for kind in ("depthwise", "norm")):
            continue
        if numbers["conv"] not in (len(names["conv"]), len(names["conv"]) + heads):
            continue
        given = {kind: names[kind] + (names["head"] if kind == "conv" else []) for kind in KINDS}
        renamed: list[KerasLayer] = []
        for kind, found in inside.items():
            renamed += [
                KerasLayer(name, layer.group, False, layer.arrays)
                for name, layer in zip(given[kind], found, strict=False)
            ]
        taken = {id(layer) for found in inside.values() for layer in found}
        rest = [layer for layer in layers if id(layer) not in taken]
        return renamed + rest, base
    counts = Counter(_kind(layer) for layer in layers)
    seen = ", ".join(layer.name for layer in layers[:4]) or "no layers at all"
    raise FileFormatError(
        f"{path} holds {seen}{' ...' if len(layers) > 4 else ''}: {counts['conv']} convolutions,"
        f" {counts['depthwise']} depthwise ones and {counts['norm']} batch norms",
        wanted="MobileNet, MobileNetV2 or MobileNetV3 of keras.applications",
        do="import one of these; a network of one's own layers is not known by its table",
    )


KINDS = ("conv", "depthwise", "norm")


def _kind(layer: KerasLayer) -> str:
    kernel = layer.arrays.get("kernel")
    if "gamma" in layer.arrays:
        return "norm"
    if kernel is None or kernel.ndim not in (2, 4):
        return "other"
    if kernel.ndim == 2:
        return "dense"
    return "depthwise" if kernel.shape[0] > 1 and kernel.shape[2] > 1 and kernel.shape[3] == 1 else "conv"


def _names_in_order(base: Base) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"conv": [], "depthwise": [], "norm": [], "head": []}
    named = _keras_layer(base)
    for site in sites(CATALOG[base]()):
        kind = "head" if site.row is None else "depthwise" if site.layer.kind == "depthwise" else "conv"
        names[kind].append(named(site))
        if site.layer.norm:
            names["norm"].append(f"{named(site)}_bn")
    return names


def _find_head(arrays: dict[str, NDArray[Any]], base: Base) -> Head:
    """Say what is behind the pooling, and give the classifier its one name in `arrays`."""
    kernels = [key.rpartition("/")[0] for key in arrays if key.endswith("/kernel")]
    named = [name for name in kernels if name in (*CLASSIFIERS, "classifier")]
    dense = [name for name in kernels if arrays[f"{name}/kernel"].ndim == 2]
    found = named or dense
    if len(found) != 1:
        return "none"  # several: those that are left over are told by name
    for part in ("kernel", "bias"):
        if f"{found[0]}/{part}" in arrays:
            arrays[f"classifier/{part}"] = arrays.pop(f"{found[0]}/{part}")
    kernel = arrays["classifier/kernel"]
    if "classifier/bias" not in arrays and kernel.ndim:
        arrays["classifier/bias"] = np.zeros(kernel.shape[-1], np.float32)
    hidden = base.startswith("mobilenet_v3") and "conv_2/kernel" in arrays
    return "whole" if hidden or not base.startswith("mobilenet_v3") else "classifier"


def _as_two_classes(arrays: dict[str, NDArray[Any]]) -> None:
    """One output z, of which Keras takes the sigmoid, as two: softmax of (0, z) is the same."""
    for part in ("kernel", "bias"):
        array = arrays[f"classifier/{part}"]
        arrays[f"classifier/{part}"] = np.concatenate([np.zeros_like(array), array], axis=-1)


def _configs(config: Any, *, deep: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and config of every layer of a model, those of models inside it where they stand."""
    inner = config.get("config") if isinstance(config, dict) else None
    if not isinstance(inner, dict) or deep > DEEPEST:
        return
    layers = inner.get("layers")
    if not isinstance(layers, list):
        yield str(config.get("class_name")), inner
        return
    for layer in layers:
        yield from _configs(layer, deep=deep + 1)


def _resolution(config: Sequence[tuple[str, Mapping[str, Any]]], told: dict[str, Any], path: Path) -> tuple[int, str]:
    first = any(settings.get("data_format") == "channels_first" for _, settings in config)
    for _, settings in config:
        shape = settings.get("batch_shape") or settings.get("batch_input_shape")
        if not isinstance(shape, list) or len(shape) != 4:
            continue
        sides = [side for side in (shape[2:] if first else shape[1:3]) if isinstance(side, int)]
        if len(sides) != 2:
            break
        if sides[0] != sides[1]:
            raise FileFormatError(
                f"{path} is a model for inputs of {sides[0]}x{sides[1]} pixels",
                wanted="a square input",
                do="import its weights alone: model.save_weights('x.weights.h5')",
            )
        return sides[0], "that of the model's input"
    return RESOLUTION, f"{RESOLUTION}, for the file says none"


def _normalisation(config: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> tuple[float, float, str]:
    """Mean and deviation of values in [0, 1] that do what the model's Rescaling layers do to values in [0, 255]."""
    scale, offset, layers = 1.0, 0.0, 0
    for kind, settings in config:
        if kind != "Rescaling":
            continue
        factor, added = settings.get("scale"), settings.get("offset")
        if not isinstance(factor, int | float) or not isinstance(added, int | float) or factor == 0:
            raise FileFormatError(
                f"a Rescaling layer in {path} has scale {factor!r} and offset {added!r}",
                wanted="one number each",
                do="import the weights alone, and give the preprocessing to the bundle",
            )
        scale, offset, layers = scale * factor, offset * factor + added, layers + 1
    if layers == 0:
        return 0.5, 0.5, "pixels in [-1, 1], as keras.applications; assumed, for the file says none"
    return -offset / (255 * scale), 1 / (255 * scale), "that of the model's Rescaling"


def _eps(config: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> float:
    found = {settings.get("epsilon") for kind, settings in config if kind == "BatchNormalization"}
    if not found:
        return EPS
    eps = found.pop()
    if found or not isinstance(eps, float):
        raise FileFormatError(
            f"batch norms in {path} differ in their epsilon", wanted="one for all", do="import another model"
        )
    return eps


def _meets_odd(spec: ArchSpec) -> bool:
    return any(placed.row.stride > 1 and placed.in_size % 2 for placed in spec.placed())
