"""What Keras and TF-slim checkpoints have in common: TensorFlow's kernels, and a table whose widths are the file's.

A `Scheme` says what a format calls each tensor of a table; strides and activations are the family's, and every width,
kernel size and squeeze-and-excite is read off the shapes. So a network of any alpha, or a pruned one, comes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..arch import (
    CATALOG,
    ArchSpec,
    BottleneckRow,
    ConvRow,
    Layer,
    Norm,
    Row,
    SeparableRow,
    compose,
    with_channels,
    with_classes,
)
from ..errors import FileFormatError
from ..nets import Network
from .imported import SHOWN, UNTRAINED_CLASSES, untrained_head

__all__ = ["Arrays", "Base", "Head", "Part", "Scheme", "Site", "network_of", "sites"]

Arrays = Mapping[str, NDArray[Any]]
Base = Literal[
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small_minimalistic",
]
Part = Literal["kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"]
# What the file holds behind the pooling: the table's whole head; a classifier right on the pooled features, as people
# put it on a backbone; or nothing.
Head = Literal["whole", "classifier", "none"]

NORM_PARTS: tuple[tuple[Part, str], ...] = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
ALPHAS = (1.0, 0.25, 0.35, 0.5, 0.75, 1.25, 1.3, 1.4, 1.5, 2.0)  # those that were published are tried first


class Site(NamedTuple):
    """One layer of a table and where it stands."""

    row: int | None  # None: in the head
    layer: Layer
    ours: str  # what its tensors' names begin with in our state dict


@dataclass(frozen=True)
class Scheme:
    """What a format calls things."""

    layer: Callable[[Site], str]  # their name of a layer
    tensor: Callable[[str, Part], str]  # their key of one of its tensors, from that name


class _Tensor(NamedTuple):
    ours: str
    theirs: str
    part: Part


def sites(spec: ArchSpec) -> Iterator[Site]:
    """The layers of a table in the order in which they run."""
    for placed in spec.placed():
        for layer in placed.row.layers(placed.in_channels):
            inside = "excite." if layer.name in ("squeeze", "excite") else ""
            yield Site(placed.index, layer, f"rows.{placed.index}.{inside}{layer.name}")
    for layer in spec.head.layers(spec.out_channels):
        yield Site(None, layer, f"head.{layer.name}")


def network_of(
    base: Base, arrays: Arrays, *, scheme: Scheme, head: Head, norm: Norm, resolution: int
) -> tuple[ArchSpec, dict[str, NDArray[np.float32]]]:
    """The table that the shapes of a checkpoint say, and its tensors by our names.

    Args:
        base: the family, which decides strides and activations.
        arrays: every tensor of the checkpoint that belongs to the network, by the scheme's keys. Kernels are HWIO,
            depthwise kernels (k, k, C, 1), linear layers (in, out) or (1, 1, in, out).
        scheme: what the format calls them.
        head: what there is of the head; where there is no classifier, an untrained one is put in.
        norm: its batch norms' epsilon, and momentum in torch's convention.
        resolution: input side in pixels.

    Raises:
        FileFormatError: tensors are missing, left over or of another shape; each by its name in the file.
    """
    spec = _table(base, arrays, scheme=scheme, head=head, norm=norm, resolution=resolution)
    pairs = [
        pair
        for site in sites(spec)
        for pair in _tensors(site, scheme)
        if head != "none" or site.row is not None or pair.theirs in arrays
    ]
    shapes = _our_shapes(spec)
    wrong = [
        f"{theirs} {_in_file(shapes[ours], part)} is missing" for ours, theirs, part in pairs if theirs not in arrays
    ]
    tensors = {}
    for ours, theirs, part in pairs:
        if theirs not in arrays:
            continue
        array = arrays[theirs]
        wanted = _in_file(shapes[ours], part)
        if len(wanted) == 2 and array.ndim == 4 and array.shape[:2] == (1, 1):
            array = array[0, 0]  # a 1x1 convolution over the pooled features is a linear layer
        if array.shape != wanted:
            wrong.append(f"{theirs} is {arrays[theirs].shape}, the table wants {wanted}")
            continue
        tensors[ours] = _turned(array, part)
    known = {theirs for _, theirs, _ in pairs}
    wrong += [f"{theirs} {array.shape} has no place" for theirs, array in arrays.items() if theirs not in known]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise FileFormatError(
            f"{len(wrong)} tensors do not fit {base}: " + "; ".join(wrong[:SHOWN]) + more,
            wanted=f"the {len(pairs)} tensors of that network, by name and shape",
            do="check that the checkpoint is whole, and a MobileNet without layers of somebody's own",
        )
    if head == "none":
        tensors = untrained_head(spec) | tensors
    return spec, tensors


def _table(base: Base, arrays: Arrays, *, scheme: Scheme, head: Head, norm: Norm, resolution: int) -> ArchSpec:
    spec = CATALOG[base]()
    shapes: dict[tuple[int | None, str], tuple[int, ...]] = {}
    for site in sites(spec):
        key = scheme.tensor(scheme.layer(site), "depthwise_kernel" if site.layer.kind == "depthwise" else "kernel")
        gamma = scheme.tensor(scheme.layer(site), "gamma")
        if key in arrays and arrays[key].ndim in (2, 4):
            shapes[site.row, site.layer.name] = arrays[key].shape
        elif site.layer.norm and site.layer.kind != "depthwise" and gamma in arrays and arrays[gamma].ndim == 1:
            shapes[site.row, site.layer.name] = arrays[gamma].shape  # one thing is missing, not all behind it too
    rows = tuple(
        _row(row, {name: shape for (at, name), shape in shapes.items() if at == index})
        for index, row in enumerate(spec.rows)
    )
    stem = shapes.get((0, "conv"), ())
    if len(stem) == 4:
        spec = with_channels(spec, stem[2])
    hidden = spec.head.hidden
    if head == "classifier":
        spec = msgspec.structs.replace(spec, head=msgspec.structs.replace(spec.head, hidden=None, act="none"))
    elif hidden is not None:
        width = shapes.get((None, "hidden"), (hidden,))[-1]
        spec = msgspec.structs.replace(spec, head=msgspec.structs.replace(spec.head, hidden=width))
    default = UNTRAINED_CLASSES if head == "none" else spec.head.classes
    spec = with_classes(spec, shapes.get((None, "classifier"), (default,))[-1])
    spec = msgspec.structs.replace(spec, rows=rows, norm=norm, padding="same", resolution=resolution)
    return msgspec.structs.replace(spec, name=_name(base, spec))


def _row(row: Row, found: Mapping[str, tuple[int, ...]]) -> Row:
    """The row with the widths and the kernel of the shapes that were found, by layer."""
    changes: dict[str, Any] = {"out": found.get("conv", found.get("project", (row.out,)))[-1]}
    kernel = found.get("conv", found.get("depthwise", ()))
    if len(kernel) == 4 and kernel[0] == kernel[1] and kernel[0] % 2 == 1:
        changes["kernel"] = kernel[0]
    if isinstance(row, BottleneckRow):
        if "expand" in found:
            changes["expanded"] = found["expand"][-1]
        if "squeeze" in found:
            changes["squeezed"] = found["squeeze"][-1]
    if not isinstance(row, ConvRow | SeparableRow | BottleneckRow):
        raise TypeError(f"no table of V1 to V3 has a {type(row).__name__}")
    return msgspec.structs.replace(row, **changes)


def _name(base: Base, spec: ArchSpec) -> str:
    """The name that `find` resolves to these widths; or one that it does not know, where no alpha makes them."""
    for alpha in (*ALPHAS, *(percent / 100 for percent in range(10, 201))):
        made = compose(base, alpha=alpha, resolution=spec.resolution)
        if made.rows == spec.rows and spec.head.hidden in (made.head.hidden, None):
            return made.name
    return f"{base}_own_widths_{spec.resolution}"


def _tensors(site: Site, scheme: Scheme) -> Iterator[_Tensor]:
    theirs = scheme.layer(site)
    kernel: Part = "depthwise_kernel" if site.layer.kind == "depthwise" else "kernel"
    weight = f"{site.ours}.conv.weight" if site.layer.norm else f"{site.ours}.weight"
    yield _Tensor(weight, scheme.tensor(theirs, kernel), kernel)
    if site.layer.norm:
        for part, name in NORM_PARTS:
            yield _Tensor(f"{site.ours}.norm.{name}", scheme.tensor(theirs, part), part)
    if site.layer.bias:
        yield _Tensor(f"{site.ours}.bias", scheme.tensor(theirs, "bias"), "bias")


def _our_shapes(spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Network(spec).state_dict().items()}


def _in_file(shape: tuple[int, ...], part: Part) -> tuple[int, ...]:
    """Our shape as TensorFlow lays the same tensor out."""
    if part == "kernel":  # (O, I, k, k) -> HWIO; (O, I) -> (I, O)
        return (*shape[2:], shape[1], shape[0])
    if part == "depthwise_kernel":  # (C, 1, k, k) -> (k, k, C, 1)
        return (*shape[2:], *shape[:2])
    return shape


def _turned(array: NDArray[Any], part: Part) -> NDArray[np.float32]:
    """The inverse of `_in_file`, for the tensor itself."""
    if part == "kernel":
        array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    elif part == "depthwise_kernel":
        array = array.transpose(2, 3, 0, 1)
    return np.ascontiguousarray(array, dtype=np.float32)
