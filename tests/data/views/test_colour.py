"""Changes of colour in torch: against torchvision's functions, and hue against colours known by heart."""

from __future__ import annotations

import colorsys
from itertools import permutations

import numpy as np
import pytest
import torch
from tests.helpers import CHANGES
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from largedrop.data.views.colour import adjust_hue, apply_colour, greyscale


def images() -> Tensor:
    """Noise, grey noise, the corners of the colour cube, black and white: (5, 3, 6, 8)."""
    torch.manual_seed(0)
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])]).T[:, None].expand(3, 6, 8)
    grey = torch.rand(1, 6, 8).expand(3, 6, 8)
    return torch.stack([torch.rand(3, 6, 8), grey, corners, torch.zeros(3, 6, 8), torch.ones(3, 6, 8)])


def each(value: float) -> Tensor:
    return torch.full((5, 1, 1, 1), value)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.7, 1.0, 1.3, 5.0])
def test_blends_are_torchvisions(kind: int, factor: float) -> None:
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 5)
    factors[:, kind] = factor
    found = apply_colour(images(), factors, torch.tensor([[0, 1, 2, 3]] * 5), torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(found, CHANGES[kind](images(), factor), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shift", [-0.5, -0.3, -1 / 6, -1e-4, 0.0, 0.01, 0.3, 1 / 3, 0.5])
def test_hue_is_torchvisions(shift: float) -> None:
    torch.testing.assert_close(adjust_hue(images(), each(shift)), V.adjust_hue(images(), shift), rtol=0, atol=2e-5)


@pytest.mark.parametrize("turns", [-3, 1, 2])
def test_whole_turns_of_hue_change_nothing(turns: int) -> None:
    torch.testing.assert_close(adjust_hue(images(), each(turns)), images(), rtol=0, atol=2e-6)


def test_hue_is_the_one_of_the_standard_library_in_float64() -> None:
    torch.manual_seed(1)
    colours, shifts = torch.rand(200, 3, dtype=torch.float64), torch.rand(200, dtype=torch.float64) * 2 - 1
    expected = []
    for colour, shift in zip(colours.tolist(), shifts.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        expected.append(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    turned = adjust_hue(colours.view(-1, 3, 1, 1), shifts.view(-1, 1, 1, 1)).flatten(1)
    torch.testing.assert_close(turned, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("colour", "shift", "expected"),
    [
        ((1.0, 0.0, 0.0), 1 / 3, (0.0, 1.0, 0.0)),
        ((1.0, 0.0, 0.0), -1 / 3, (0.0, 0.0, 1.0)),
        ((0.0, 1.0, 0.0), 1 / 6, (0.0, 1.0, 1.0)),
        ((0.8, 0.2, 0.2), 1 / 2, (0.2, 0.8, 0.8)),
        ((0.4, 0.4, 0.4), 0.3, (0.4, 0.4, 0.4)),
        ((0.0, 0.0, 0.0), 0.3, (0.0, 0.0, 0.0)),
        ((0.3, 0.6, 0.1), 0.0, (0.3, 0.6, 0.1)),
    ],
)
def test_hue_is_turned(colour: tuple[float, float, float], shift: float, expected: tuple[float, float, float]) -> None:
    turned = adjust_hue(torch.tensor(colour).view(1, 3, 1, 1), torch.full((1, 1, 1, 1), shift))
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)


def test_grey_is_torchvisions() -> None:
    torch.testing.assert_close(greyscale(images()), V.rgb_to_grayscale(images(), 3), rtol=0, atol=1e-6)


def test_every_image_has_its_own_changes_in_its_own_order() -> None:
    rng = np.random.default_rng(0)
    orders = torch.tensor([*permutations(range(4)), *permutations(range(4))])
    factors = torch.from_numpy(rng.uniform(0.7, 1.3, (48, 4)) - (0, 0, 0, 1)).float()
    factors[:3] = torch.tensor([(1, 1, 1, 0), (0, 2, 0, 0.5), (1, 0, 3, -0.5)])
    grey = torch.arange(48) % 5 == 0
    batch = torch.from_numpy(rng.random((48, 3, 9, 7), dtype=np.float32))
    batch[5], batch[6] = 0.4, 0.0
    before = batch.clone()
    result = apply_colour(batch, factors, orders, grey)
    assert torch.equal(batch, before)
    for position in range(48):
        expected = batch[position]
        for kind in orders[position].tolist():
            expected = CHANGES[kind](expected, float(factors[position, kind]))
        if grey[position]:
            expected = V.rgb_to_grayscale(expected, 3)
        torch.testing.assert_close(result[position], expected, rtol=0, atol=2e-5)


def test_no_images() -> None:
    none = torch.zeros(0, dtype=torch.bool)
    empty = apply_colour(torch.zeros(0, 3, 4, 4), torch.ones(0, 4), torch.ones(0, 4, dtype=torch.int64), none)
    assert empty.shape == (0, 3, 4, 4)
