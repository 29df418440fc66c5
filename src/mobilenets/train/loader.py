"""Batches for training: drawn and cropped while the step before runs, then normalised and distorted on the device.

What runs ahead, in threads, is numpy and Pillow only: a torch operation in a second thread would start a second pool of
OpenMP threads, and the two pools spin against each other.

Order and augmentation come from (seed, epoch, batch) alone, so a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..records import Preprocess
from .recipe import Recipe

__all__ = ["Batches", "Drawn", "TrainPixels", "normalise"]

PHOTO_THREADS = 4  # Pillow resizes outside the interpreter lock
ASPECT = (3 / 4, 4 / 3)  # of random crops (Szegedy et al. 2015)


class TrainPixels(Protocol):
    """What the loader reads: `data.Store`."""

    @property
    def uniform(self) -> NDArray[np.uint8] | None:
        """(N, H, W, C) when all images have one size."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """(N,) class indices."""

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(h, w, C) of one image."""


class Drawn(NamedTuple):
    """A batch as it is drawn: cropped, not yet normalised, on the CPU."""

    pixels: Tensor  # uint8 (B, R, R, C)
    targets: Tensor  # int64 (B,)
    which: NDArray[np.int64]  # (B,): indices of these images in the source


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in channels-last memory, minus mean, over std."""
    mean = torch.tensor(preprocess.mean, device=pixels.device) * 255
    scale = 1 / (torch.tensor(preprocess.std, device=pixels.device) * 255)
    return ((pixels.float() - mean) * scale).permute(0, 3, 1, 2)


class Batches:
    """The batches of a run. The last, smaller batch of an epoch is left out unless it is the only one."""

    def __init__(self, source: TrainPixels, recipe: Recipe, preprocess: Preprocess) -> None:
        self._source = source
        self._recipe = recipe
        self._preprocess = preprocess
        self._targets = np.array(source.targets)
        self._size = min(recipe.batch_size, len(self._targets))
        uniform = source.uniform
        side = preprocess.resolution
        # Images that already have the network's size are shifted; all others are cropped and resized one by one.
        self._same_size = uniform if uniform is not None and uniform.shape[1:3] == (side, side) else None

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        return max(1, len(self._targets) // self._size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Drawn]:
        """The batches of epoch `number`, from batch `start` on."""
        order = np.random.default_rng([self._recipe.seed, number]).permutation(len(self._targets))
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(PHOTO_THREADS) as photo:
            following = None
            for batch in range(start, self.per_epoch):
                current = following or ahead.submit(self._make, order, number, batch, photo)
                more = batch + 1 < self.per_epoch
                following = ahead.submit(self._make, order, number, batch + 1, photo) if more else None
                yield current.result()

    def _make(self, order: NDArray[np.int64], epoch: int, batch: int, photo: ThreadPoolExecutor) -> Drawn:
        index = order[batch * self._size : (batch + 1) * self._size]
        rng = np.random.default_rng([self._recipe.seed, epoch, batch])
        if self._same_size is not None:
            pixels = self._shifted(self._same_size, index, rng)
        else:
            seeds = rng.integers(2**63, size=len(index))
            crops = photo.map(self._cropped, index.tolist(), seeds.tolist())
            pixels = np.stack(list(crops))
        return Drawn(torch.from_numpy(pixels), torch.from_numpy(self._targets[index]), index)

    def distort(self, images: Tensor, *, step: int) -> Tensor:
        """Rotate, zoom and erase normalised images (B, C, R, R) on their device, as the recipe says."""
        recipe = self._recipe
        if not (recipe.rotate or recipe.zoom or recipe.cutout):
            return images
        rng = np.random.default_rng([recipe.seed, 1, step])
        if recipe.rotate or recipe.zoom:
            images = self._turned(images, rng)
        return self._erased(images, rng) if recipe.cutout else images

    def _shifted(
        self, uniform: NDArray[np.uint8], index: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Shift with reflected borders and mirror, the whole batch in one gather."""
        count, side = len(index), self._preprocess.resolution
        reach = round(self._recipe.crop_padding * side)
        rows, columns = (rng.integers(-reach, reach + 1, size=(2, count, 1)) + np.arange(side)).astype(np.int64)
        if self._recipe.mirror:
            columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
        rows, columns = (side - 1 - np.abs(side - 1 - np.abs(axis)) for axis in (rows, columns))
        shifted: NDArray[np.uint8] = uniform[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return shifted

    def _cropped(self, index: int, seed: int) -> NDArray[np.uint8]:
        """A random part of one image, resized (Szegedy et al. 2015), mirrored half of the time."""
        rng = np.random.default_rng(seed)
        pixels = self._source.pixels(index)
        height, width = pixels.shape[:2]
        area = height * width * rng.uniform(self._recipe.crop_area, 1.0)
        aspect = np.exp(rng.uniform(*np.log(ASPECT)))
        crop_w = min(width, max(1, round((area * aspect) ** 0.5)))
        crop_h = min(height, max(1, round((area / aspect) ** 0.5)))
        left, top = rng.integers(width - crop_w + 1), rng.integers(height - crop_h + 1)
        side = self._preprocess.resolution
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image = image.resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, top, left + crop_w, top + crop_h), reducing_gap=2.0
        )
        resized = np.asarray(image).reshape(side, side, pixels.shape[2])
        return resized[:, ::-1] if self._recipe.mirror and rng.random() < 0.5 else resized

    def _turned(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Rotate and zoom about the centre; what comes in at the border repeats the edge."""
        count = len(images)
        angle = np.deg2rad(rng.uniform(-self._recipe.rotate, self._recipe.rotate, count))
        scale = 1 / rng.uniform(1 - self._recipe.zoom, 1 + self._recipe.zoom, count)
        theta = np.zeros((count, 2, 3), np.float32)
        theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle) * scale
        theta[:, 0, 1], theta[:, 1, 0] = -np.sin(angle) * scale, np.sin(angle) * scale
        grid = F.affine_grid(torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False)
        turned = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return turned.contiguous(memory_format=torch.channels_last)

    def _erased(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Set a square to the mean, anywhere, possibly cut by the border (DeVries and Taylor 2017)."""
        side = self._preprocess.resolution
        half = round(self._recipe.cutout * side) / 2
        centres = torch.from_numpy(rng.uniform(0, side, size=(2, len(images), 1)).astype(np.float32)).to(images.device)
        near = (torch.arange(side, device=images.device) + 0.5 - centres).abs() < half
        return images.masked_fill((near[0][:, :, None] & near[1][:, None, :])[:, None], 0.0)
