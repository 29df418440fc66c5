"""Keras' files as layers with arrays, by h5py alone: weights and whole models, of Keras 2 and 3.

Three layouts:
- `.weights.h5`: a group per layer, named by its class (`conv2d_3`), with its arrays as `vars/0`, `vars/1` ... Since
  Keras 3.10 or so, an attribute of `vars` keeps the layer's own name; before, only the order of the layers tells.
- `.h5` of Keras 2, which Keras' published ImageNet weights are, and whole models as `.h5` of any Keras: groups by the
  layers' own names, each with the names of its weights as an attribute.
- `.keras`: a zip of `config.json` and `model.weights.h5`.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError

__all__ = ["KerasFile", "KerasLayer", "read_keras_file"]

MOST_BYTES = 1 << 30  # of one file inside a zip; the largest MobileNet with Adam's two moments is half of that
MOST_OBJECTS = 50_000  # groups and arrays in a file; a MobileNet with its optimizer has 3,000
DEEPEST = 24  # groups inside groups
STATE = ("optimizer", "optimizer_weights", "metrics", "seed_generator", "_optimizer")  # not of the network


@dataclass(frozen=True, eq=False)
class KerasLayer:
    """One layer that has arrays.

    `arrays` are by their part: "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", and others as the
    file calls them. `name` is the layer's own where the file keeps that (`named`), else its class with a number.
    """

    name: str
    group: str  # what it lies in: the same for all layers of one model
    named: bool
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class KerasFile:
    """Layers in the order in which the model has them, where the file keeps one; and the model's config, if any."""

    layers: tuple[KerasLayer, ...]
    layout: str
    version: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read_keras_file(path: Path) -> KerasFile:
    """Read `.weights.h5`, `.h5` or `.keras`.

    Raises:
        FileFormatError: not such a file, cut off, or one that claims more than it holds.
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", extra="train") from error
    config: Any = None
    source: Path | io.BytesIO = path
    size = path.stat().st_size
    layout = ""
    if zipfile.is_zipfile(path):
        config, content = _unzipped(path)
        source, size, layout = io.BytesIO(content), len(content), ".keras, "
    try:
        with h5py.File(source, "r") as file:
            if config is None and "model_config" in file.attrs:
                config = _json(_attribute(file, "model_config"), path)
            weights = file.get("model_weights", file)
            if "layer_names" in weights.attrs or "layer_names0" in weights.attrs:
                layers = tuple(_by_attributes(h5py, weights, size, path))
                layout += "whole model (.h5)" if weights is not file else "weights (.h5, Keras 2)"
            else:
                layers = tuple(_by_class(h5py, file, size, path))
                layout += "weights (.weights.h5)"
            version = _text(_attribute(weights, "keras_version"))
    except FileFormatError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py raises any of these
        raise FileFormatError(
            f"{path} cannot be read as HDF5: {error}",
            wanted="weights or a model that Keras wrote, whole",
            do="copy or download the file again",
        ) from error
    return KerasFile(layers, layout, version, config if isinstance(config, dict) else {})


def _unzipped(path: Path) -> tuple[Any, bytes]:
    """The config and the bytes of the weights of a `.keras` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            weights = next((name for name in names if name == "model.weights.h5"), None)
            if weights is None:
                raise FileFormatError(
                    f"{path} is a zip of {', '.join(names[:5]) or 'nothing'}",
                    wanted="a .keras file: config.json and model.weights.h5",
                    do="save the model with model.save('x.keras')",
                )
            for name in ("config.json", weights):
                if name in names and archive.getinfo(name).file_size > MOST_BYTES:
                    raise _claims(path, name, archive.getinfo(name).file_size)
            config = _json(archive.read("config.json"), path) if "config.json" in names else None
            return config, archive.read(weights)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise FileFormatError(
            f"{path} cannot be read as a zip: {error}", wanted="a .keras file", do="copy or download the file again"
        ) from error


def _by_attributes(h5py: Any, weights: Any, size: int, path: Path) -> Iterator[KerasLayer]:
    """Layers of the layout that lists their names and those of their weights."""
    for name in _listed(weights, "layer_names"):
        group = _inside(h5py, weights, name)
        read = {key: _array(h5py, _inside(h5py, group, key), size, path) for key in _listed(group, "weight_names")}
        parts = [_part(key) for key in read]
        if len(set(parts)) == len(parts):
            if read:
                yield KerasLayer(name, "", True, dict(zip(parts, read.values(), strict=True)))
            continue
        inner: dict[str, dict[str, NDArray[Any]]] = {}  # a model as a layer: its layers' names are in the weights'
        for key, array in read.items():
            inner.setdefault(key.rpartition("/")[0], {})[_part(key)] = array
        for layer, arrays in inner.items():
            yield KerasLayer(layer, name, True, arrays)


def _by_class(h5py: Any, file: Any, size: int, path: Path) -> Iterator[KerasLayer]:
    """Layers of the layout that has `vars` in each layer's group; numbered layers in the order of their numbers."""
    budget = MOST_OBJECTS

    def walk(group: Any, trail: tuple[str, ...]) -> Iterator[KerasLayer]:
        nonlocal budget
        if len(trail) > DEEPEST:
            raise _odd(path, f"groups inside groups, {len(trail)} deep")
        for name in sorted(group, key=_natural):
            budget -= 1
            if budget < 0:
                raise _odd(path, f"more than {MOST_OBJECTS} objects")
            if name in STATE or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            child = group[name]
            if not isinstance(child, h5py.Group):
                continue
            if name != "vars":
                yield from walk(child, (*trail, name))
                continue
            held = [_array(h5py, child[key], size, path) for key in sorted(child, key=_natural)]
            if held and trail:
                own = _text(_attribute(child, "name"))
                arrays = dict(zip(_parts(held), held, strict=True))
                yield KerasLayer(own or trail[-1], "/".join(trail[:-1]), own is not None, arrays)

    yield from walk(file, ())


def _parts(arrays: list[NDArray[Any]]) -> list[str]:
    """What the numbered arrays of a layer are, by the order in which Keras makes them."""
    ranks = [array.ndim for array in arrays]
    if ranks == [1, 1, 1, 1]:
        return ["gamma", "beta", "moving_mean", "moving_variance"]
    if ranks in ([4], [2], [4, 1], [2, 1]):
        return ["kernel", "bias"][: len(ranks)]
    return [f"vars/{index}" for index in range(len(arrays))]


def _array(h5py: Any, dataset: Any, size: int, path: Path) -> NDArray[Any]:
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise _odd(path, f"{dataset.name}, which is no array of its own")
    if dataset.nbytes > (size if dataset.chunks is None else MOST_BYTES):
        raise _claims(path, dataset.name, dataset.nbytes)
    if dataset.dtype.kind not in "fiub":
        raise _odd(path, f"{dataset.name} of type {dataset.dtype}")
    array: NDArray[Any] = np.asarray(dataset[()])
    return array


def _attribute(group: Any, name: str) -> Any:
    """An attribute, or None where there is none; one that claims to be very long is not read."""
    if name not in group.attrs:
        return None
    claimed = group.attrs.get_id(name)
    if math.prod(claimed.shape) * claimed.dtype.itemsize > MOST_OBJECTS * 16:
        raise ValueError(f"the attribute {name} is too long")
    return group.attrs[name]


def _listed(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras spreads over numbered attributes where it is long."""
    if attribute in group.attrs:
        return [_text(name) or "" for name in _attribute(group, attribute)]
    names: list[str] = []
    chunk = 0
    while f"{attribute}{chunk}" in group.attrs:
        names += [_text(name) or "" for name in _attribute(group, f"{attribute}{chunk}")]
        chunk += 1
    return names


def _inside(h5py: Any, group: Any, name: str) -> Any:
    """What lies in a group by that name, without following links into other files."""
    for step in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise KeyError(f"{name} is not in it")
        group = group[step]
    return group


def _part(key: str) -> str:
    """ "conv_dw_1/depthwise_kernel:0" -> "kernel"."""
    part = key.rpartition("/")[2].partition(":")[0]
    return "kernel" if part == "depthwise_kernel" else part


def _natural(name: str) -> tuple[str, int]:
    """conv2d, conv2d_1, conv2d_2, conv2d_10."""
    match = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", name, flags=re.DOTALL)
    if name.isdigit() and len(name) < 10:
        return "", int(name)
    return (name, 0) if match is None else (match[1], int(match[2] or 0))


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None


def _json(content: Any, path: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise _odd(path, f"a config that is no JSON ({error})") from error


def _odd(path: Path, what: str) -> FileFormatError:
    return FileFormatError(
        f"{path} holds {what}", wanted="weights as Keras writes them", do="save them with Keras again"
    )


def _claims(path: Path, name: str, size: int) -> FileFormatError:
    return FileFormatError(
        f"{name} in {path} claims {size} bytes",
        wanted="no more than the file can hold",
        do="copy or download the file again",
    )
