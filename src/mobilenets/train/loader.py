"""Batches for training: drawn and cropped while the step before runs, then normalised and distorted on the device.

What runs ahead, in threads, is numpy and Pillow only: a torch operation in a second thread would start a second pool of
OpenMP threads, and the two pools spin against each other.

Order and augmentation come from (seed, epoch, batch) alone, so a run that is resumed sees what it would have seen. Of
several processes each makes its part of every batch, with the draws that one process alone would have made for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import DataError, MobileNetsError, RecipeError, UsageError
from ..records import Preprocess
from . import augment
from .machine import to_device
from .randaugment import randaugment
from .recipe import ClassWeights, Recipe

__all__ = ["Batches", "Drawn", "TrainPixels", "normalise", "positive_weights", "weights_of"]

PHOTO_THREADS = 4  # Pillow resizes outside the interpreter lock
ASPECT = (3 / 4, 4 / 3)  # of random crops (Szegedy et al. 2015)
DISTORTING, MIXING, MIRRORING = 1, 2, 3  # streams of random numbers beside that of the batches


class TrainPixels(Protocol):
    """What the loader reads: `data.Store`."""

    @property
    def uniform(self) -> NDArray[np.uint8] | None:
        """(N, H, W, C) when all images have one size."""

    @property
    def targets(self) -> NDArray[Any]:
        """As in `data.Split`: class indices (N,), or labels (N, K)."""

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(h, w, C) of one image."""


class Drawn(NamedTuple):
    """A batch as it is drawn: cropped, not yet normalised, on the CPU."""

    pixels: Tensor  # uint8 (B, R, R, C)
    targets: Tensor  # int64 (B,), or float32 (B, K)
    which: NDArray[np.int64]  # (B,): indices of these images in the source


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in channels-last memory, minus mean, over std."""
    mean, std = (to_device(torch.tensor(values), pixels.device) for values in (preprocess.mean, preprocess.std))
    mean, scale = mean * 255, 1 / (std * 255)
    return ((pixels.float() - mean) * scale).permute(0, 3, 1, 2)


def weights_of(counts: NDArray[np.int64], kind: ClassWeights) -> NDArray[np.float32] | None:
    """How much an image of each class counts (K,), 1 on average over the images; None where all count alike.

    Args:
        counts: images of each class (K,).
        kind: "inverse": classes count alike, however many images they have. "sqrt_inverse": half of the way there.

    Raises:
        RecipeError: there is no such kind.
    """
    if kind == "none":
        return None
    rarity = np.maximum(counts, 1) ** -_power(kind)
    weights: NDArray[np.float32] = (rarity * counts.sum() / (rarity * counts).sum()).astype(np.float32)
    return weights


def positive_weights(targets: NDArray[np.float32], kind: ClassWeights) -> NDArray[np.float32] | None:
    """How much a 1 of each label counts (K,), a 0 being 1; None where all count alike.

    Args:
        targets: labels of the images (N, K); NaN is not counted.
        kind: "inverse": as many times as there are more 0 than 1, so that both count alike. "sqrt_inverse": the root.

    Raises:
        RecipeError: there is no such kind.
    """
    if kind == "none":
        return None
    ones, zeros = ((targets == value).sum(axis=0) for value in (1, 0))
    ratio: NDArray[np.float32] = ((np.maximum(zeros, 1) / np.maximum(ones, 1)) ** _power(kind)).astype(np.float32)
    return ratio


def _power(kind: ClassWeights) -> float:
    if kind == "inverse":
        return 1.0
    if kind == "sqrt_inverse":
        return 0.5
    raise RecipeError(f"class_weights = {kind!r}", wanted="none, inverse or sqrt_inverse", do="correct class_weights")


class Batches:
    """The batches of a run. The last, smaller batch of an epoch is left out unless it is the only one.

    Args:
        source: the training images.
        recipe: batch size, order and augmentation.
        preprocess: gives the resolution.
        rank: which of `world` processes this is; each gets an equal part of every batch.
        world: how many there are.

    Raises:
        UsageError: the batch cannot be shared out evenly.
        RecipeError: classes are to be balanced, and images have any number of labels.
    """

    def __init__(
        self, source: TrainPixels, recipe: Recipe, preprocess: Preprocess, *, rank: int = 0, world: int = 1
    ) -> None:
        self._source = source
        self._recipe = recipe
        self._preprocess = preprocess
        self._targets = np.array(source.targets)
        self._size = min(recipe.batch_size, len(self._targets))
        if self._size % world or self._size // world < min(2, self._size):
            raise UsageError(
                f"a batch of {self._size} images for {world} processes",
                wanted="an equal part for each, of at least 2 images",
                do=f"choose a batch size that is a multiple of {world}",
            )
        if self._targets.ndim == 2 and recipe.sampling == "balanced":
            raise RecipeError(
                "sampling = balanced for images with any number of labels",
                wanted="shuffled: an image of a rare label shows its common ones as well",
                do="set class_weights to inverse or sqrt_inverse instead",
            )
        # Which way round an image is seen first is drawn once; then it takes turns, so that two epochs show every image
        # both ways (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6).
        self._mirrored_first = np.random.default_rng([recipe.seed, MIRRORING]).random(len(self._targets)) < 0.5
        own = self._size // world
        self._part = slice(rank * own, (rank + 1) * own)
        uniform = source.uniform
        side = preprocess.resolution
        # Images that already have the network's size are shifted; all others are cropped and resized one by one.
        self._same_size = uniform if uniform is not None and uniform.shape[1:3] == (side, side) else None

    def __len__(self) -> int:
        """Training images."""
        return len(self._targets)

    @property
    def fixed_views(self) -> bool:
        """Whether an image looks the same each time it is drawn."""
        r = self._recipe
        shifted = bool(round(r.crop_padding * self._preprocess.resolution)) or r.mirror
        distorted = r.randaugment or r.rotate or r.zoom or r.cutout or r.erase or r.mixup or r.cutmix
        return self._same_size is not None and not (shifted or distorted or r.small_side < 1)

    def in_order(self, size: int) -> Iterator[Tensor]:
        """All images as they are, uint8 (up to `size`, R, R, C), where views are fixed; by every process alike.

        Raises:
            UsageError: views are not fixed.
        """
        if self._same_size is None or not self.fixed_views:
            raise UsageError("images look otherwise each time", wanted="no augmentation", do="draw an epoch")
        for begin in range(0, len(self), size):
            yield torch.from_numpy(np.array(self._same_size[begin : begin + size]))

    @property
    def size(self) -> int:
        """Images of a batch, those of all processes together."""
        return self._size

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        return max(1, len(self._targets) // self._size)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Drawn]:
        """This process's part of the batches of epoch `number`, from batch `start` on.

        Raises:
            DataError: an image cannot be drawn; names the batch and the cause.
        """
        order = self._order(number)
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(PHOTO_THREADS) as photo:
            following = None
            for batch in range(start, self.per_epoch):
                current = following or ahead.submit(self._make, order, number, batch, photo)
                more = batch + 1 < self.per_epoch
                following = ahead.submit(self._make, order, number, batch + 1, photo) if more else None
                try:
                    drawn = current.result()
                except MobileNetsError:
                    raise
                except Exception as error:  # whatever ended the thread ends the run, with a name
                    raise DataError(
                        f"drawing batch {batch} of epoch {number} failed: {type(error).__name__}: {error}",
                        wanted="images that can be read to the end of the run",
                        do="check the cache of decoded images; --resume goes on from the checkpoint",
                    ) from error
                yield drawn

    def distort(self, images: Tensor, *, step: int) -> Tensor:
        """Rotate, zoom and erase normalised images (B, C, R, R) on their device, as the recipe says."""
        recipe = self._recipe
        if not (recipe.rotate or recipe.zoom or recipe.cutout or recipe.erase):
            return images
        rng = np.random.default_rng([recipe.seed, DISTORTING, step])
        alone = len(images) != self._part.stop - self._part.start  # not one of our batches: all by itself
        part, count = (slice(None), len(images)) if alone else (self._part, self._size)
        return augment.distort(images, recipe, rng, part=part, count=count)

    def mix(self, images: Tensor, classes: Tensor, *, step: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Blend images with each other, as the recipe says; see `augment.mix`. Partners are of the same process."""
        return augment.mix(images, classes, self._recipe, np.random.default_rng([self._recipe.seed, MIXING, step]))

    def class_weights(self, classes: int) -> NDArray[np.float32] | None:
        """How much an image of each class, or a 1 of each label, counts, as the recipe says: `weights_of`,
        `positive_weights`."""
        if self._targets.ndim == 2:
            return positive_weights(self._targets, self._recipe.class_weights)
        return weights_of(np.bincount(self._targets, minlength=classes), self._recipe.class_weights)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Indices (N,) in the order of an epoch."""
        rng = np.random.default_rng([self._recipe.seed, epoch])
        if self._recipe.sampling == "shuffled":
            return rng.permutation(len(self._targets))
        if self._recipe.sampling == "balanced":
            return _balanced(self._targets, rng)
        raise RecipeError(f"sampling = {self._recipe.sampling!r}", wanted="shuffled or balanced", do="correct sampling")

    def _make(self, order: NDArray[np.int64], epoch: int, batch: int, photo: ThreadPoolExecutor) -> Drawn:
        index = order[batch * self._size : (batch + 1) * self._size]
        rng = np.random.default_rng([self._recipe.seed, epoch, batch])
        mirrored = self._mirrored_first[index] ^ bool(epoch % 2)
        if self._same_size is not None:
            pixels = self._shifted(self._same_size, index, rng, mirrored)
            if self._recipe.randaugment:
                seeds = rng.integers(2**63, size=len(index))[self._part]
                pixels = np.stack(list(photo.map(self._augmented, pixels, seeds.tolist())))
        else:
            seeds = rng.integers(2**63, size=len(index))
            drawn = (values[self._part].tolist() for values in (index, seeds, mirrored))
            crops = photo.map(self._cropped, *drawn)
            pixels = np.stack(list(crops))
        own = index[self._part]
        return Drawn(torch.from_numpy(pixels), torch.from_numpy(self._targets[own]), own)

    def _shifted(
        self,
        uniform: NDArray[np.uint8],
        index: NDArray[np.int64],
        rng: np.random.Generator,
        mirrored: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Shift with reflected borders and mirror, the whole batch in one gather."""
        count, side = len(index), self._preprocess.resolution
        reach = round(self._recipe.crop_padding * side)
        rows, columns = (rng.integers(-reach, reach + 1, size=(2, count, 1)) + np.arange(side)).astype(np.int64)
        if self._recipe.mirror:
            columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
        rows, columns = (side - 1 - np.abs(side - 1 - np.abs(axis[self._part])) for axis in (rows, columns))
        own = index[self._part]
        shifted: NDArray[np.uint8] = uniform[own[:, None, None], rows[:, :, None], columns[:, None, :]]
        return shifted

    def _augmented(self, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        return randaugment(pixels, self._recipe, np.random.default_rng(seed))

    def _cropped(self, index: int, seed: int, mirrored: bool) -> NDArray[np.uint8]:
        """A random part of one image, resized (Szegedy et al. 2015) and mirrored if it is its turn."""
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
        seen = resized[:, ::-1] if self._recipe.mirror and mirrored else resized
        return randaugment(seen, self._recipe, rng) if self._recipe.randaugment else seen


def _balanced(targets: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many indices as there are images, of each class equally many to within one, no image twice before all once."""
    present = np.unique(targets)
    shares = np.full(len(present), len(targets) // len(present))
    shares[rng.permutation(len(present))[: len(targets) % len(present)]] += 1
    drawn = []
    for target, share in zip(present.tolist(), shares.tolist(), strict=True):
        own = np.flatnonzero(targets == target)
        rounds = [rng.permutation(own) for _ in range(-(-share // len(own)))]
        drawn.append(np.concatenate(rounds)[:share])
    return rng.permutation(np.concatenate(drawn))
