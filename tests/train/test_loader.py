import numpy as np
import pytest
import torch
from PIL import Image

from making import patches
from mobilenets.errors import DataError, UsageError
from mobilenets.records import Preprocess
from mobilenets.train import Recipe
from mobilenets.train.loader import Batches, normalise, weights_of
from mobilenets.train.randaugment import OPERATIONS

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


@pytest.mark.parametrize("uniform", [True, False])
def test_two_epochs_show_every_image_both_ways_round(uniform: bool) -> None:
    # Dark on the left, light on the right: the same whatever part of it a crop keeps.
    source = Source(count=40, uniform=uniform, side=SIDE if uniform else 2 * SIDE)
    source.images[:] = np.linspace(0, 250, source.images.shape[2]).astype(np.uint8)[:, None]
    seen = []
    for number in (4, 5):
        turned = np.zeros(40, bool)
        for pixels, targets, _ in batches(source, crop_padding=0.0).epoch(number):
            turned[targets.numpy()] = (pixels[:, 0, 0, 0] > pixels[:, 0, -1, 0]).numpy()
        seen.append(turned)
    assert np.array_equal(seen[0], ~seen[1])
    assert 5 < seen[0].sum() < 35


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


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_all_processes_make_the_batch_of_one(uniform: bool, world: int) -> None:
    source = Source(uniform=uniform)
    fields = {"randaugment": 2, "rotate": 10.0, "cutout": 0.3, "erase": 0.5}
    recipe = Recipe(**{"epochs": 1.0, "batch_size": 8, **fields})
    preprocess = Preprocess(resolution=SIDE)
    alone = Batches(source, recipe, preprocess)
    parts = [Batches(source, recipe, preprocess, rank=rank, world=world) for rank in range(world)]
    for step, (whole, *drawn) in enumerate(zip(alone.epoch(1), *(part.epoch(1) for part in parts), strict=True)):
        assert torch.equal(torch.cat([d.pixels for d in drawn]), whole.pixels)
        assert torch.equal(torch.cat([d.targets for d in drawn]), whole.targets)
        distorted = [p.distort(normalise(d.pixels, preprocess), step=step) for p, d in zip(parts, drawn, strict=True)]
        torch.testing.assert_close(torch.cat(distorted), alone.distort(normalise(whole.pixels, preprocess), step=step))


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 8 images for 3 processes"):
        Batches(Source(), Recipe(epochs=1.0, batch_size=8), Preprocess(resolution=SIDE), world=3)


def test_a_thread_that_dies_ends_the_epoch_with_the_batch_and_the_cause() -> None:
    class Broken(Source):
        def pixels(self, index: int) -> np.ndarray:
            if index == 7:
                raise OSError("the disk is gone")
            return super().pixels(index)

    with pytest.raises(DataError, match=r"drawing batch \d of epoch 0 failed: OSError: the disk is gone"):
        list(batches(Broken(uniform=False)).epoch(0))


def test_random_erasing_takes_a_rectangle_of_some_images_and_stays_inside() -> None:
    images = torch.ones(400, 3, SIDE, SIDE)
    erased = batches(Source(), erase=0.5).distort(images, step=0)
    gone = (erased == 0).all(dim=1)
    hit = gone.flatten(1).any(dim=1)
    assert 0.4 < hit.float().mean() < 0.6
    for image in gone[hit]:
        rows, columns = image.any(dim=1), image.any(dim=0)
        assert torch.equal(image, rows[:, None] & columns[None, :])
    shares = gone[hit].flatten(1).float().mean(dim=1)
    assert 0 < shares.min() <= shares.max() < 0.45


def test_mixup_blends_every_pixel_and_cutmix_a_rectangle_and_shares_say_how_much() -> None:
    images = torch.arange(8, dtype=torch.float32)[:, None, None, None].expand(8, 3, SIDE, SIDE).contiguous()
    classes = torch.arange(8)
    for step in range(20):
        mixed, others, share = batches(Source(), mixup=0.8).mix(images, classes, step=step)
        assert torch.equal(others, classes.flip(0))
        torch.testing.assert_close(mixed[:, 0, 0, 0], share * classes + (1 - share) * others)
        cut, others, share = batches(Source(), cutmix=1.0).mix(images, classes, step=step)
        kept = (cut[:, 0] == classes[:, None, None]).float().mean(dim=(1, 2))
        torch.testing.assert_close(kept, share)


def test_mixing_happens_as_often_as_it_should_and_never_by_default() -> None:
    images, classes = torch.randn(4, 3, SIDE, SIDE), torch.arange(4)
    assert batches(Source()).mix(images, classes, step=0) is None
    sometimes = batches(Source(), mixup=0.5, mix_probability=0.3)
    assert 30 < sum(sometimes.mix(images, classes, step=step) is not None for step in range(200)) < 90


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_randaugment_keeps_size_and_mode(name: str, channels: int) -> None:
    pixels = patches(1, SIDE, channels)[0]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for level in (0.0, 0.9, 1.5):
        made = OPERATIONS[name](image, level, -1.0)
        assert (made.size, made.mode) == (image.size, image.mode)


def test_randaugment_changes_images_as_often_as_it_should() -> None:
    source = Source(count=200)
    fields = {"crop_padding": 0.0, "mirror": False, "batch_size": 100, "randaugment": 1}
    for probability, low, high in ((0.0, 0, 0), (0.5, 50, 110)):
        changed = 0
        for pixels, _, which in batches(source, randaugment_probability=probability, **fields).epoch(0):
            changed += sum(not np.array_equal(a, source.images[i]) for a, i in zip(pixels.numpy(), which, strict=True))
        assert low <= changed <= high


def test_balanced_sampling_shows_every_class_equally_often_and_no_image_twice_before_all_once() -> None:
    source = Source(count=90)
    source.targets = np.repeat([0, 1, 4], [60, 20, 10])
    loader = batches(source, sampling="balanced", batch_size=10)
    orders = [np.concatenate([drawn.which for drawn in loader.epoch(number)]) for number in (0, 1)]
    for order in orders:
        assert np.bincount(source.targets[order]).tolist() == [30, 30, 0, 0, 30]
        times = np.bincount(order, minlength=90)
        assert set(times[:60]) == {0, 1}
        assert set(times[60:80]) == {1, 2}
        assert set(times[80:]) == {3}
    assert not np.array_equal(*orders)


def test_class_weights_make_classes_count_alike_and_are_one_on_average() -> None:
    counts = np.array([90, 9, 1, 0])
    inverse, half = weights_of(counts, "inverse"), weights_of(counts, "sqrt_inverse")
    assert inverse is not None
    assert half is not None
    assert (counts * inverse)[:3] == pytest.approx([100 / 3] * 3)
    assert (counts * half).sum() == pytest.approx(100)
    assert half[2] / half[0] == pytest.approx(90**0.5)
    assert weights_of(counts, "none") is None
