"""Distortions of a whole batch on its device, vectorised. Draws are numpy's, so that they can be repeated."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .machine import to_device
from .recipe import Recipe

__all__ = ["distort", "mix", "resized"]

ERASED_AREA = (0.02, 1 / 3)  # of the image, and
ERASED_ASPECT = (0.3, 1 / 0.3)  # of the rectangle (Zhong et al. 2017, section 4)


def distort(images: Tensor, recipe: Recipe, rng: np.random.Generator, *, part: slice, count: int) -> Tensor:
    """Rotate, zoom and erase normalised images (B, C, R, R) as the recipe says.

    Args:
        images: those of this process.
        recipe: how.
        rng: of this step.
        part: which of the step's images these are.
        count: how many the step has; draws are made for all of them, so that they are the same in any process.
    """
    if recipe.rotate or recipe.zoom:
        angle = np.deg2rad(rng.uniform(-recipe.rotate, recipe.rotate, count))
        scale = 1 / rng.uniform(1 - recipe.zoom, 1 + recipe.zoom, count)
        images = _turned(images, angle[part], scale[part])
    side = images.shape[-1]
    if recipe.cutout:
        # DeVries and Taylor 2017: a square anywhere, possibly cut by the border
        centres = rng.uniform(0, side, size=(2, count))
        half = np.full((2, count), round(recipe.cutout * side) / 2)
        images = _erased(images, centres[:, part], half[:, part])
    if recipe.erase:
        wanted = rng.random(count) < recipe.erase
        area = rng.uniform(*ERASED_AREA, count) * side * side
        aspect = np.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1]), count))
        half = np.minimum(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)]), side) / 2 * wanted
        centres = half + rng.random((2, count)) * (side - 2 * half)
        images = _erased(images, centres[:, part], half[:, part])
    return images


def resized(images: Tensor, side: int) -> Tensor:
    """Images (B, C, side, side) of images (B, C, R, R), in channels-last memory; without aliases, as Pillow does it."""
    if images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


def mix(
    images: Tensor, classes: Tensor, recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Blend each image with the one at the mirrored place of the batch, by mixup or cutmix.

    Returns:
        Images (B, C, R, R), the classes mixed in (B,), and the share in [0, 1] that each image keeps (B,); None where
        this batch is left alone.
    """
    if not (recipe.mixup or recipe.cutmix) or rng.random() >= recipe.mix_probability:
        return None
    cut = bool(recipe.cutmix) and (not recipe.mixup or rng.random() < recipe.mix_switch)
    alpha = recipe.cutmix if cut else recipe.mixup
    kept = float(rng.beta(alpha, alpha))
    others = images.flip(0)
    if cut:
        side = images.shape[-1]
        half = side * (1 - kept) ** 0.5 / 2
        centre = rng.uniform(0, side, 2)
        top, left = (max(0, round(c - half)) for c in centre)
        bottom, right = (min(side, round(c + half)) for c in centre)
        images = images.clone(memory_format=torch.preserve_format)
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (side * side)
    else:
        images = images.lerp(others, 1 - kept)
    return images, classes.flip(0), torch.full((len(images),), kept, device=images.device)


def _turned(images: Tensor, angle: NDArray[np.float64], scale: NDArray[np.float64]) -> Tensor:
    """Rotate and zoom about the centre; what comes in at the border repeats the edge."""
    theta = np.zeros((len(images), 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle) * scale
    theta[:, 0, 1], theta[:, 1, 0] = -np.sin(angle) * scale, np.sin(angle) * scale
    grid = F.affine_grid(to_device(torch.from_numpy(theta), images.device), list(images.shape), align_corners=False)
    edge = 1 - 1 / images.shape[-1]  # the middle of the last pixel; MPS has no padding_mode="border" before torch 2.13
    turned = F.grid_sample(images, grid.clamp(-edge, edge), align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


def _erased(images: Tensor, centres: NDArray[np.float64], half: NDArray[np.float64]) -> Tensor:
    """Set a rectangle of each image to the mean: `centres` and `half` its sides, (2, B) rows and columns in pixels."""
    side = images.shape[-1]
    middle, reach = (
        to_device(torch.from_numpy(values[..., None].astype(np.float32)), images.device) for values in (centres, half)
    )
    near = (torch.arange(side, device=images.device) + 0.5 - middle).abs() < reach
    return images.masked_fill((near[0][:, :, None] & near[1][:, None, :])[:, None], 0.0)
