"""The draws of training views against torchvision's distribution."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.transforms import v2

from largedrop.data.views.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION
from largedrop.data.views.draws import Draws, draw, largest_crop

SIGMAS = 5
MANY = 60_000


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
    draw_one = getattr(crop, "make_params", None) or crop._get_params  # its name before torchvision 0.21
    drawn = [draw_one([image]) for _ in range(count)]
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


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 60), (60, 1), (7, 5), (96, 960), (3200, 320), (227, 227), (320, 427), (427, 320), (40, 31)]
)
def test_no_crop_is_larger_than_the_bound(shape: tuple[int, int]) -> None:
    drawn = draw([shape] * 4000, 0, 1).box[:, 2:]
    bound = largest_crop(np.array([shape]))
    assert (drawn <= bound).all()
    assert max(bound) <= max(min(max(shape), 4 / 3 * min(shape) + 3), 1)


def test_the_bound_is_that_of_the_largest_of_all_images() -> None:
    assert largest_crop(np.array([(30, 300), (50, 40), (10, 10)])) == (50, 42)
    assert largest_crop(np.zeros((0, 2), dtype=np.int64)) == (1, 1)
