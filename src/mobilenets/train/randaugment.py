"""RandAugment by Pillow, for the loader's threads.

Cubuk, Zoph, Shlens, Le, "RandAugment", 2020. Operations and ranges are those of TensorFlow's Model Garden, which the
recipe of MobileNetV4 uses (magnitude 10 is the end of a range, and may be passed), without cutout, which that recipe
leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from .recipe import Recipe

__all__ = ["OPERATIONS", "randaugment"]

GREY = 128  # what comes in at the border
TRANSLATED = 100 / 224  # of the side, at magnitude 10
Operation = Callable[[Image.Image, float, float], Image.Image]  # image, level in units of the range, sign


def randaugment(pixels: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (H, W, C), C 1 or 3, after as many random operations as the recipe says; of the same size."""
    names = rng.integers(len(OPERATIONS), size=recipe.randaugment)
    wanted = rng.random(recipe.randaugment) < recipe.randaugment_probability
    signs = rng.choice([-1.0, 1.0], recipe.randaugment)
    if not wanted.any():
        return pixels
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    operations = list(OPERATIONS.values())
    for name, sign in zip(names[wanted].tolist(), signs[wanted].tolist(), strict=True):
        image = operations[name](image, recipe.randaugment_magnitude / 10, sign)
    return np.asarray(image).reshape(pixels.shape)


def _affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    fill = GREY if image.mode == "L" else (GREY,) * 3
    return image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), resample=Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    fill = GREY if image.mode == "L" else (GREY,) * 3
    return image.rotate(sign * level * 30, resample=Image.Resampling.BILINEAR, fillcolor=fill)


def _solarize_add(image: Image.Image, level: float, _sign: float) -> Image.Image:
    added = int(level * 110)
    return image.point(
        [min(255, value + added) if value < 128 else value for value in range(256)] * len(image.getbands())
    )


def _bits(level: float) -> int:
    return int(np.clip(level * 4, 1, 8))


def _strength(level: float) -> float:
    return level * 1.8 + 0.1


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "autocontrast": lambda image, _level, _sign: ImageOps.autocontrast(image),
        "equalize": lambda image, _level, _sign: ImageOps.equalize(image),
        "invert": lambda image, _level, _sign: ImageOps.invert(image),
        "rotate": _rotate,
        "posterize": lambda image, level, _sign: ImageOps.posterize(image, _bits(level)),
        "solarize": lambda image, level, _sign: ImageOps.solarize(image, int(level * 256)),
        "color": lambda image, level, _sign: ImageEnhance.Color(image).enhance(_strength(level)),
        "contrast": lambda image, level, _sign: ImageEnhance.Contrast(image).enhance(_strength(level)),
        "brightness": lambda image, level, _sign: ImageEnhance.Brightness(image).enhance(_strength(level)),
        "sharpness": lambda image, level, _sign: ImageEnhance.Sharpness(image).enhance(_strength(level)),
        "shear_x": lambda image, level, sign: _affine(image, 1, sign * level * 0.3, 0, 0, 1, 0),
        "shear_y": lambda image, level, sign: _affine(image, 1, 0, 0, sign * level * 0.3, 1, 0),
        "translate_x": lambda image, level, sign: _affine(
            image, 1, 0, sign * level * TRANSLATED * image.width, 0, 1, 0
        ),
        "translate_y": lambda image, level, sign: _affine(
            image, 1, 0, 0, 0, 1, sign * level * TRANSLATED * image.height
        ),
        "solarize_add": _solarize_add,
    }
)
