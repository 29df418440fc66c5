"""How a checkpoint's images were prepared, as the file beside its weights says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from ..errors import FileFormatError
from ..records import Interpolation, Preprocess

__all__ = ["for_channels", "from_timm", "from_transformers"]

PILLOW: Mapping[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Image.Resampling by its numbers
GOOGLE_MARGIN = 32  # transformers resizes Google's MobileNets to this many pixels more than it crops


def from_timm(config: Mapping[str, Any], resolution: int) -> Preprocess:
    """Of timm's `pretrained_cfg`; a field that is missing is timm's default.

    Raises:
        FileFormatError: a field that no `Preprocess` can be.
    """
    size = config.get("input_size", (3, resolution, resolution))
    height, width = _sides(size[1:] if isinstance(size, Sequence) and len(size) == 3 else size, "input_size")
    if height != width:
        raise _cannot("input_size", size, "a square image")
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in get_args(Interpolation):
        raise _cannot("interpolation", interpolation, "one of " + ", ".join(get_args(Interpolation)))
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise _cannot("crop_mode", mode, "center or squash")
    return Preprocess(
        resolution=height,
        channels=len(config.get("mean", (0, 0, 0))),
        resize="stretch" if mode == "squash" else "shorter_side",
        crop_fraction=float(config.get("crop_pct") or 0.875),
        interpolation=interpolation,
        mean=tuple(float(value) for value in config.get("mean", Preprocess(resolution=1).mean)),
        std=tuple(float(value) for value in config.get("std", Preprocess(resolution=1).std)),
    )


def from_transformers(config: Mapping[str, Any] | None, resolution: int) -> Preprocess:
    """Of `preprocessor_config.json`; without one, as Google's MobileNets have it: values in [-1, 1], size + 32.

    Raises:
        FileFormatError: a field that no `Preprocess` can be.
    """
    config = {} if config is None else config
    crop, _ = _sides(config.get("crop_size", resolution), "crop_size")
    size = config.get("size", {"shortest_edge": crop + GOOGLE_MARGIN})
    stretched = isinstance(size, Mapping) and "height" in size
    if isinstance(size, Mapping) and not stretched:
        size = size.get("shortest_edge")
    side, other = _sides(size, "size")
    if not config.get("do_center_crop", True):
        crop, stretched = side, stretched
    if other != side or crop > side:
        raise _cannot("size", config.get("size"), f"a square of at least the crop's {crop} pixels")
    resample = config.get("resample", 2)
    if resample not in PILLOW:
        raise _cannot("resample", resample, f"one of {sorted(PILLOW)}: Pillow's nearest, bilinear, bicubic")
    mean, std = config.get("image_mean", [0.5] * 3), config.get("image_std", [0.5] * 3)
    if not config.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    # Its normalisation is of pixels x factor; ours of pixels / 255.
    factor = 255 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    return Preprocess(
        resolution=crop,
        channels=len(mean),
        resize="stretch" if stretched else "shorter_side",
        crop_fraction=crop / side,
        interpolation=PILLOW[resample],
        mean=tuple(round(float(value) / factor, 9) for value in mean),
        std=tuple(round(float(value) / factor, 9) for value in std),
    )


def for_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """The same for a network of so many channels: where they differ, the mean over the channels serves each."""
    if preprocess.channels == channels:
        return preprocess
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return msgspec.structs.replace(preprocess, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


def _sides(size: Any, field: str) -> tuple[int, int]:
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise _cannot(field, size, "one number of pixels, or height and width")
    return sides[0], sides[1]


def _cannot(field: str, value: Any, wanted: str) -> FileFormatError:
    return FileFormatError(
        f"the images' preparation has {field} = {value!r}", wanted=wanted, do="correct the file beside the weights"
    )
