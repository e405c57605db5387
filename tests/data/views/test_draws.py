"""The training view: its draws against torchvision's distribution, its pixels against torchvision's functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from largedrop.data.views.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, apply_colour
from largedrop.data.views.draws import Draws, draw
from largedrop.data.views.host import augment, normalise, resize, training_batch
from largedrop.runtime import one_thread

SIGMAS = 5
MANY = 60_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Nothing here is large enough for two."""
    with one_thread():
        yield


def ks_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """The largest distance between two empirical distribution functions, over its critical value at p = 10⁻⁶."""
    a, b = np.sort(first), np.sort(second)
    at = np.concatenate([a, b])
    distance = np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max()
    return float(distance / math.sqrt(-0.5 * math.log(5e-7) * (1 / len(a) + 1 / len(b))))


def share_is(values: npt.NDArray[np.bool_], expected: float) -> bool:
    return abs(float(values.mean()) - expected) < SIGMAS * math.sqrt(expected * (1 - expected) / values.size)


@pytest.fixture(scope="module")
def many() -> Draws:
    return draw([(200, 300)] * MANY, seed=0, step=0)


def theirs(height: int, width: int, count: int = 3000) -> npt.NDArray[np.float64]:
    """Top, left, height, width of torchvision's crops, (count, 4)."""
    crop = v2.RandomResizedCrop(32, scale=(0.7, 1.0), ratio=(3 / 4, 4 / 3), antialias=True)
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    drawn = [crop.make_params([image]) for _ in range(count)]
    return np.array([[box[key] for key in ("top", "left", "height", "width")] for box in drawn], dtype=np.float64)


def marks(box: npt.NDArray[Any], height: int, width: int) -> dict[str, npt.NDArray[np.float64]]:
    """What is compared of boxes: area, aspect, and where the box lies in the room that it has."""
    top, left, tall, wide = box.T.astype(np.float64)
    return {
        "area": tall * wide / (height * width),
        "aspect": np.log(wide / tall),
        "height": tall,
        "width": wide,
        "top": top,
        "left": left,
        "top in its room": top[tall < height] / (height - tall[tall < height]),
        "left in its room": left[wide < width] / (width - wide[wide < width]),
    }


@pytest.mark.parametrize(("height", "width"), [(224, 224), (200, 300), (300, 200), (120, 160), (200, 310), (33, 47)])
def test_crops_have_torchvisions_distribution(height: int, width: int) -> None:
    ours = draw([(height, width)] * MANY, seed=1, step=2).box
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()
    reference = marks(theirs(height, width), height, width)
    for name, values in marks(ours, height, width).items():
        assert ks_distance(values, reference[name]) < 1, name


def test_the_comparison_of_distributions_can_fail() -> None:
    box = draw([(224, 224)] * MANY, seed=1, step=2).box
    reference = theirs(224, 224)
    areas, others = (marks(each, 224, 224)["area"] for each in (box, reference))
    assert ks_distance(areas * 0.98, others) > 1
    assert ks_distance(marks(box, 224, 224)["aspect"] * 1.2, marks(reference, 224, 224)["aspect"]) > 1


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 200, (0, 93, 10, 13)), (200, 10, (93, 0, 13, 10)), (1, 1, (0, 0, 1, 1)), (3, 400, (0, 198, 3, 4))],
)
def test_images_that_no_crop_fits_are_cut_in_the_middle_as_in_torchvision(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    assert {tuple(row) for row in theirs(height, width, 20).astype(int).tolist()} == {box}
    assert {tuple(row) for row in draw([(height, width)] * 50, 0, 0).box.tolist()} == {box}


def test_factors_are_uniform(many: Draws) -> None:
    uniform = (np.arange(MANY) + 0.5) / MANY
    for kind, low in ((BRIGHTNESS, 0.7), (CONTRAST, 0.7), (SATURATION, 0.7), (HUE, -0.3)):
        assert ks_distance(many.factors[:, kind], low + 0.6 * uniform) < 1
        assert low <= many.factors[:, kind].min() < low + 0.001
        assert low + 0.599 < many.factors[:, kind].max() <= low + 0.6 + 1e-12
    correlation = np.corrcoef(many.factors.T) - np.eye(4)
    assert np.abs(correlation).max() < SIGMAS / math.sqrt(MANY)


def test_the_24_orders_are_equally_likely(many: Draws) -> None:
    orders, counts = np.unique(many.order, axis=0, return_counts=True)
    assert orders.tolist() == [list(order) for order in permutations(range(4))]
    expected = MANY / 24
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 23 + SIGMAS * math.sqrt(2 * 23)


def test_half_are_mirrored_and_a_tenth_grey_independently(many: Draws) -> None:
    assert share_is(many.flip, 0.5)
    assert share_is(many.grey, 0.1)
    assert share_is(many.flip & many.grey, 0.05)
    assert share_is(many.flip[1:] & many.flip[:-1], 0.25)


def fields(draws: Draws, rows: slice = slice(None)) -> list[list[Any]]:
    return [part[rows].tolist() for part in (draws.box, draws.flip, draws.factors, draws.order, draws.grey)]


def test_draws_are_a_function_of_seed_and_step() -> None:
    shapes = [(200, 300)] * 40
    first = fields(draw(shapes, 3, 5))
    assert fields(draw(shapes, 3, 5)) == first
    torch.manual_seed(9)
    np.random.seed(9)
    assert fields(draw(shapes, 3, 5)) == first
    for seed, step in ((4, 5), (3, 6), (5, 3)):
        assert all(ours != other for ours, other in zip(first, fields(draw(shapes, seed, step)), strict=True))


def test_draws_of_one_image_do_not_hang_on_the_sizes_of_the_others() -> None:
    first = fields(draw([(200, 300), (50, 60), (10, 200)], 0, 0), slice(0, 1))
    assert fields(draw([(200, 300), (90, 20), (64, 64)], 0, 0), slice(0, 1)) == first


def test_draws_differ_between_the_images_of_a_batch(many: Draws) -> None:
    assert len({tuple(row) for row in many.factors.tolist()}) == MANY


SIZES = [(48, 64), (64, 48), (32, 32), (40, 40), (20, 90), (90, 20), (33, 47), (128, 128)]


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Smooth colours with an edge and some noise, one of each of ``SIZES``."""
    rng = np.random.default_rng(0)
    result = []
    for height, width in SIZES:
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        waves = np.stack([np.sin(6 * x + phase) * np.cos(5 * y - phase) for phase in rng.random(3) * 6], axis=-1)
        pixels = 127 + 90 * waves + 25 * (x > y)[..., None] + rng.normal(0, 6, (height, width, 3))
        result.append(pixels.clip(0, 255).astype(np.uint8))
    return result


ADJUST: dict[int, Callable[[Tensor, float], Tensor]] = {
    BRIGHTNESS: V.adjust_brightness,
    CONTRAST: V.adjust_contrast,
    SATURATION: V.adjust_saturation,
    HUE: V.adjust_hue,
}


def by_torchvision(image: npt.NDArray[np.uint8], size: int, draws: Draws, position: int) -> Tensor:
    """One image's view from torchvision's functions, in float after the resizing, (3, size, size) in [0, 1]."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    view = V.resized_crop(pixels, *draws.box[position].tolist(), [size, size], antialias=True).float() / 255
    if draws.flip[position]:
        view = V.horizontal_flip(view)
    for kind in draws.order[position].tolist():
        view = ADJUST[kind](view, float(draws.factors[position, kind]))
    return V.rgb_to_grayscale(view, num_output_channels=3) if draws.grey[position] else view


LEVEL = 1 / 255


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_torchvisions_within_one_grey_level(seed: int) -> None:
    images = pictures()
    draws = draw(SIZES, seed, 0)
    draws = replace(draws, grey=np.arange(len(SIZES)) == seed, flip=np.arange(len(SIZES)) % 2 == seed % 2)
    views = augment(images, 32, draws)
    assert views.shape == (len(SIZES), 3, 32, 32)
    assert views.dtype == torch.float32
    for position, image in enumerate(images):
        expected = by_torchvision(image, 32, draws, position)
        error = float((views[position] - expected).abs().max())
        assert error < LEVEL, (SIZES[position], error / LEVEL)


@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_each_adjustment_alone_is_torchvisions(kind: int, factor: float) -> None:
    """At the size of the images, where nothing is resized, up to float32's rounding."""
    images = [pictures()[2], np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)]
    factors = np.array([[1.0, 1.0, 1.0, 0.0]] * 2)
    factors[:, kind] = factor - 1 if kind == HUE else factor
    whole = np.array([[0, 0, 32, 32]] * 2)
    never = np.zeros(2, dtype=bool)
    draws = Draws(whole, never, factors, np.array([[0, 1, 2, 3]] * 2), never)
    for view, image in zip(augment(images, 32, draws), images, strict=True):
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(view, ADJUST[kind](pixels, float(factors[0, kind])), rtol=0, atol=2e-5)


def test_the_order_of_the_adjustments_is_the_one_drawn() -> None:
    draws = draw(SIZES, 0, 0)
    views = augment(pictures(), 32, draws)
    other = augment(pictures(), 32, replace(draws, order=draws.order[:, ::-1].copy()))
    assert (views - other).abs().amax((1, 2, 3)).min() > LEVEL


def test_values_stay_between_0_and_1() -> None:
    images = [np.full((32, 32, 3), 255, np.uint8), *pictures(), np.zeros((9, 9, 3), np.uint8)]
    shapes = [image.shape[:2] for image in images]
    for step in range(10):
        views = augment(images, 16, draw(shapes, 0, step))
        assert float(views.min()) >= 0
        assert float(views.max()) <= 1


def test_grey_views_are_grey_and_the_images_are_left_alone() -> None:
    images = pictures()
    copies = [image.copy() for image in images]
    for image in images:
        image.flags.writeable = False
    draws = draw(SIZES, 0, 0)
    views = augment(images, 32, replace(draws, grey=np.arange(len(SIZES)) < 4))
    assert torch.equal(views[:4, 0], views[:4, 1])
    assert torch.equal(views[:4, 0], views[:4, 2])
    assert not (views[4:, 0] == views[4:, 1]).all()
    assert all(np.array_equal(image, copy) for image, copy in zip(images, copies, strict=True))


def test_a_training_batch_draws_and_applies() -> None:
    images = pictures()
    assert torch.equal(training_batch(images, 24, 3, 5, (0, 0, 0), (1, 1, 1)), augment(images, 24, draw(SIZES, 3, 5)))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_training_batch_is_the_normalised_training_view_in_channels_last() -> None:
    images = pictures()
    batch = training_batch(images, 24, 3, 5, MEAN, STD)
    assert batch.shape == (len(SIZES), 3, 24, 24)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    plain = augment(images, 24, draw(SIZES, 3, 5))
    torch.testing.assert_close(batch, normalise(plain, MEAN, STD), rtol=0, atol=2e-6)


def test_views_are_those_of_the_torch_functions() -> None:
    """The kernels against ``colour``, on the same resized bytes: up to float32's rounding."""
    images = pictures()
    for step in range(5):
        draws = draw(SIZES, 0, step)
        boxes = [(image, *box) for image, box in zip(images, draws.box.tolist(), strict=True)]
        resized = [resize(image[top : top + tall, left : left + wide], 40) for image, top, left, tall, wide in boxes]
        turned = [each.flip(-1) if flip else each for each, flip in zip(resized, draws.flip, strict=True)]
        expected = apply_colour(torch.stack(turned).float() / 255, draws.factors, draws.order, draws.grey)
        torch.testing.assert_close(augment(images, 40, draws), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    images = pictures() * 3
    expected = training_batch(images, 32, 0, 0, MEAN, STD)
    torch.set_num_threads(threads)  # the fixture sets it back
    assert torch.equal(training_batch(images, 32, 0, 0, MEAN, STD), expected)


def test_a_view_does_not_hang_on_the_other_images_of_the_batch() -> None:
    images, draws = pictures(), draw(SIZES, 0, 0)
    views = augment(images, 32, draws)
    for position in range(len(SIZES)):
        part = slice(position, position + 1)
        alone = Draws(draws.box[part], draws.flip[part], draws.factors[part], draws.order[part], draws.grey[part])
        assert torch.equal(augment(images[part], 32, alone)[0], views[position])


def test_neither_the_layout_of_the_draws_nor_torchs_state_matters() -> None:
    images, draws = pictures(), draw(SIZES, 0, 0)
    expected = augment(images, 32, draws)
    other = replace(
        draws,
        box=np.asfortranarray(draws.box),
        factors=np.asfortranarray(draws.factors),
        order=np.asfortranarray(draws.order.astype(np.int32)),
    )
    other.box.flags.writeable = False
    with torch.inference_mode():
        assert torch.equal(augment(images, 32, other), expected)


def test_what_does_not_fit_together_is_an_error() -> None:
    images, draws = pictures(), draw(SIZES, 0, 0)
    for row, column, value in ((0, 0, -1), (1, 2, 0), (2, 2, 33), (3, 1, 41), (4, 3, 10**9)):
        box = draws.box.copy()
        box[row, column] = value
        with pytest.raises(ValueError, match="is not in an image of"):
            augment(images, 32, replace(draws, box=box))
    with pytest.raises(ValueError, match="four factors for each of 8 images"):
        augment(images, 32, replace(draws, factors=draws.factors[:, :3]))
    with pytest.raises(ValueError, match="8 draws for 7 images"):
        augment(images[:-1], 32, draws)
    with pytest.raises(ValueError, match="each of 0, 1, 2 and 3 once"):
        augment(images, 32, replace(draws, order=np.zeros_like(draws.order)))


def test_an_empty_batch_is_an_empty_tensor() -> None:
    assert augment([], 8, draw([], 0, 0)).shape == (0, 3, 8, 8)
