"""What follows from the images: resolution, strides, preprocessing, mirroring. `train` and `fit` decide alike here."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from statistics import median

import msgspec

from ..arch import ArchSpec, compose, find, for_small_images, split_name, with_classes, with_resolution, with_width
from ..arch.narrower import at_resolution
from ..bundle import Bundle
from ..data import Dataset
from ..errors import UsageError
from ..images import Fault
from ..records import Preprocess
from .recipe import Recipe

__all__ = [
    "SMALL_SIDE",
    "adapted",
    "explain_choice",
    "native_side",
    "preprocess_for",
    "recipe_for",
    "spec_for",
    "store_side",
]

SMALL_SIDE = 64  # pixels; up to here images are thumbnails, used at the size they have
SAMPLE = 24  # images whose sizes are looked at
PHOTO_CROP = 0.875  # validation keeps 224 of 256 pixels, as most published ImageNet numbers do
PHOTO_STORE = 1.25  # training photos are kept this much larger than the network's input, for random crops
# Of new networks: the pixel 128 is 0. One number for all channels costs the exported file next to nothing, and a byte
# minus 128 is what int8 multiplies (the official quantised MobileNets are made so). Imported ones keep their own.
CENTRE = 128 / 255

# A name that says its alpha: TF-slim's with a point, timm's as per cent.
_SAYS_ALPHA = re.compile(r"_\d+\.\d+(?:_|$)|mobilenetv\w+_\d{3}$")


def native_side(dataset: Dataset) -> int | None:
    """The shorter side of a data set's images in pixels, where they are small (at most 64); None for photos.

    In files, a sample of the training images is looked at; one that is larger makes them photos.
    """
    train = dataset.split("train")
    if train.pixels is not None:
        side = int(min(train.pixels.shape[1:3]))
        return side if side <= SMALL_SIDE else None
    sides: list[int] = []
    for number in range(min(SAMPLE, len(train))):
        # Reduced decoding keeps at least twice SMALL_SIDE, so a side that counts as small is exact.
        decoded = train.read(number * len(train) // min(SAMPLE, len(train)), at_least=SMALL_SIDE)
        if not isinstance(decoded, Fault):
            sides.append(min(decoded.image.size))
        if sides and sides[-1] > SMALL_SIDE:
            return None
    return int(median(sides)) if sides else None


def spec_for(
    start: str | ArchSpec,
    *,
    alpha: float | None = None,
    resolution: int | None = None,
    native_side: int | None,
    classes: int,
) -> ArchSpec:
    """The table to train on images of a certain size.

    - A resolution that is asked for, in the name (`mobilenet_v2_1.0_160`) or by `resolution`, is taken.
    - Otherwise small images are used at their own size, photos at the table's.
    - Where the resolution is small (at most 64 pixels) and no name or file fixed it, strides are turned off
      until 4x4 pixels are left at the end (`arch.for_small_images`).
    - A table from a file, or given as `ArchSpec`, says all its numbers itself; only what is asked for is changed.

    Args:
        start: a model's name, the path of a spec's `.json`, or a table.
        alpha: width multiplier, on top of what `start` has; None: as it is.
        resolution: input side in pixels; None: as above.
        native_side: of the images, as `native_side` finds it; None for photos.
        classes: number of classes.

    Raises:
        UnknownNameError: no such model.
        SpecError: a knob cannot be set so.
        UsageError: alpha is given, and the name says one as well.
    """
    if isinstance(start, ArchSpec):
        return _with_knobs(start, alpha=alpha, resolution=resolution, classes=classes)
    spec = find(start)
    if start.endswith(".json"):
        return _with_knobs(spec, alpha=alpha, resolution=resolution, classes=classes)
    if alpha is not None and _SAYS_ALPHA.search(start):
        raise UsageError(f"alpha is {alpha:g}, and {start} says its own", wanted="one of them", do="leave alpha away")
    parts = split_name(spec.name)  # of the canonical name: aliases are resolved
    asked = split_name(re.sub(r"^\w+[/:]", "", start))
    says = asked is not None and asked.resolution is not None
    side = resolution if resolution is not None or says else native_side
    if parts is None:
        return _with_knobs(spec, alpha=alpha, resolution=side, classes=classes)
    width = parts.alpha if alpha is None else alpha
    if says and side in (None, spec.resolution):
        return compose(parts.base, alpha=width, resolution=spec.resolution, stride=parts.stride, classes=classes)
    small = side is not None and side <= SMALL_SIDE
    return compose(parts.base, alpha=width, resolution=side, stride="small" if small else None, classes=classes)


def explain_choice(start: str | ArchSpec, spec: ArchSpec, *, native_side: int | None) -> str:
    """One line about what `spec_for` made of `start`: "images are 28 pixels a side: mobilenet_v2 ..."."""
    size = f"images are {native_side} pixels a side" if native_side is not None else "images are photos"
    begun = start if isinstance(start, str) else start.name
    strides = [row.stride for row in spec.rows]
    before = start if isinstance(start, ArchSpec) else find(start)
    turned = len(before.rows) == len(strides) and [row.stride for row in before.rows] != strides
    how = f"{begun} at {spec.resolution} pixels" + (" with fewer strides" if turned else "")
    return f"{size}: {how}" + (f": {spec.name}" if spec.name != begun else "")


def preprocess_for(spec: ArchSpec, *, native_side: int | None) -> Preprocess:
    """How images are fed to a table: small ones whole, of photos the centre (87.5 % of the shorter side).

    Raises:
        UsageError: the table has neither 1 nor 3 input channels.
    """
    crop = 1.0 if native_side is not None else PHOTO_CROP
    return Preprocess(
        resolution=spec.resolution,
        channels=spec.channels,
        crop_fraction=crop,
        mean=(CENTRE,) * spec.channels,
        std=(CENTRE,) * spec.channels,
    )


def store_side(spec: ArchSpec, *, native_side: int | None) -> int:
    """The shorter side, in pixels, that training images are kept at: the network's own, or room for random crops."""
    return spec.resolution if native_side is not None else math.ceil(spec.resolution * PHOTO_STORE)


def adapted(bundle: Bundle, dataset: Dataset, *, resolution: int | None = None) -> Bundle:
    """The bundle for a data set's labels and task (without its classifier's weights, where they are others).

    Args:
        bundle: trained.
        dataset: whose labels it is to know.
        resolution: input side in pixels; None: the bundle's.
    """
    labels = dataset.labels
    kept = bundle.carried_to(labels, dataset.task)
    side = bundle.spec.resolution if resolution is None else resolution
    if kept is bundle and side == bundle.spec.resolution:
        return bundle
    return replace(
        bundle.after("adapt", kept.tensors, classes=len(labels), resolution=side),
        own=kept.own,
        spec=at_resolution(with_classes(bundle.spec, len(labels)), side),
        task=dataset.task,
        labels=labels,
        preprocess=msgspec.structs.replace(bundle.preprocess, resolution=side),
    )


def recipe_for(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe without mirroring where a mirrored image is of another class, or none (digits, letters)."""
    return recipe if dataset.mirror_safe else msgspec.structs.replace(recipe, mirror=False)


def _with_knobs(spec: ArchSpec, *, alpha: float | None, resolution: int | None, classes: int) -> ArchSpec:
    """A table that is no catalogue row, with what was asked for; its name tells what was changed."""
    name = spec.name
    if alpha is not None and alpha != 1.0:
        spec, name = with_width(spec, alpha), f"{name}_{alpha:g}"
    if resolution is not None and resolution != spec.resolution:
        spec, name = with_resolution(spec, resolution), f"{name}_{resolution}"
        if resolution <= SMALL_SIDE:
            smaller = for_small_images(spec)
            name = name if smaller == spec else f"{name}_s{list(smaller.placed())[-1].reduction}"
            spec = smaller
    return msgspec.structs.replace(with_classes(spec, classes), name=name)
