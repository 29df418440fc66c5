import numpy as np
import pytest
import torch

from making import patches
from mobilenets.records import Preprocess
from mobilenets.train import Recipe
from mobilenets.train.loader import Batches, normalise

SIDE = 16


class Source:
    def __init__(self, count: int = 40, side: int = SIDE, uniform: bool = True) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        self.uniform = self.images if uniform else None
        self.targets = np.arange(count, dtype=np.int64)

    def pixels(self, index: int) -> np.ndarray:
        return self.images[index]


def batches(source: Source, **recipe) -> Batches:
    return Batches(source, Recipe(**{"epochs": 1.0, "batch_size": 8, **recipe}), Preprocess(resolution=SIDE))


@pytest.mark.parametrize("uniform", [True, False])
def test_an_epoch_holds_every_image_once_in_another_order_each_time(uniform: bool) -> None:
    loader = batches(Source(uniform=uniform))
    orders = [torch.cat([drawn.targets for drawn in loader.epoch(number)]).tolist() for number in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("uniform", [True, False])
def test_an_epoch_entered_midway_goes_on_as_it_would_have(uniform: bool) -> None:
    whole = list(batches(Source(uniform=uniform)).epoch(3))
    rest = list(batches(Source(uniform=uniform)).epoch(3, start=2))
    assert len(rest) == len(whole) - 2
    for would, did in zip(whole[2:], rest, strict=True):
        assert torch.equal(would.pixels, did.pixels)
        assert torch.equal(would.targets, did.targets)
        np.testing.assert_array_equal(would.which, did.which)


def test_without_shift_and_mirror_pixels_are_the_images_themselves() -> None:
    source = Source()
    for pixels, targets, _ in batches(source, crop_padding=0.0, mirror=False).epoch(0):
        np.testing.assert_array_equal(pixels.numpy(), source.images[targets.numpy()])


def test_a_batch_says_which_images_it_holds() -> None:
    source = Source()
    for pixels, targets, index in batches(source, crop_padding=0.0, mirror=False).epoch(1):
        np.testing.assert_array_equal(pixels.numpy(), source.images[index])
        np.testing.assert_array_equal(targets.numpy(), source.targets[index])


def test_a_shifted_image_is_a_window_of_the_reflected_one() -> None:
    source = Source()
    reach = 2
    for pixels, targets, _ in batches(source, crop_padding=reach / SIDE, mirror=False).epoch(0):
        for image, target in zip(pixels.numpy(), targets.tolist(), strict=True):
            wide = np.pad(source.images[target], ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
            windows = [wide[y : y + SIDE, x : x + SIDE] for y in range(2 * reach + 1) for x in range(2 * reach + 1)]
            assert any(np.array_equal(image, window) for window in windows)


def test_mirroring_happens_for_about_half_and_never_when_off() -> None:
    source = Source(count=400)
    turned = 0
    for pixels, targets, _ in batches(source, crop_padding=0.0, batch_size=50).epoch(0):
        originals = source.images[targets.numpy()]
        for image, original in zip(pixels.numpy(), originals, strict=True):
            turned += np.array_equal(image, original[:, ::-1])
            assert np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])
    assert 150 < turned < 250


def test_small_sets_make_one_batch_of_all() -> None:
    loader = batches(Source(count=5), batch_size=64)
    ((pixels, _, _),) = loader.epoch(0)
    assert loader.per_epoch == 1
    assert pixels.shape == (5, SIDE, SIDE, 3)


def test_images_of_another_size_are_cropped_and_resized() -> None:
    for pixels, _, _ in batches(Source(side=40)).epoch(0):
        assert pixels.shape == (8, SIDE, SIDE, 3)


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation_per_channel() -> None:
    preprocess = Preprocess(resolution=SIDE, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    pixels = torch.from_numpy(patches(4, SIDE))
    images = normalise(pixels, preprocess)
    expected = (pixels.double() / 255 - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std)
    torch.testing.assert_close(images.double(), expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_rotation_by_nothing_is_nothing_and_erasing_leaves_a_square_of_the_mean() -> None:
    images = normalise(torch.from_numpy(patches(6, SIDE)), Preprocess(resolution=SIDE))
    assert torch.equal(batches(Source()).distort(images, step=3), images)
    erased = batches(Source(), cutout=0.5).distort(images, step=3)
    changed = (erased != images).any(dim=1)
    assert all(1 <= int(c.sum()) <= 64 for c in changed)
    assert (erased[changed[:, None].expand_as(erased)] == 0).all()
    turned = batches(Source(), rotate=20.0).distort(images, step=3)
    assert turned.shape == images.shape
    assert not torch.equal(turned, images)
    assert torch.equal(turned, batches(Source(), rotate=20.0).distort(images, step=3))
