"""Masks as a function of (seed, step, rate)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from largedrop.linear.drawing import draw
from largedrop.linear.masks import dropped_levels, kept, mask_key


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_a_rate_drops_as_much_as_it_says(rate: float) -> None:
    keys = torch.tensor([mask_key(1, step) for step in range(4)])
    found = kept(keys, 100, 1001, torch.full((4,), dropped_levels(rate)))
    assert found.shape == (4, 100, 1001)
    assert float(found.double().mean()) == pytest.approx(1 - rate, abs=0.004)  # five standard errors
    for axis in (0, 1, 2):  # neighbours are independent
        first, second = found.narrow(axis, 0, found.shape[axis] - 1), found.narrow(axis, 1, found.shape[axis] - 1)
        assert float((first & second).double().mean()) == pytest.approx((1 - rate) ** 2, abs=0.005)


def test_masks_are_those_of_splitmix64() -> None:
    """The first outputs for the seed 1234567, as its authors' code has them."""
    values = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    sixteenths = [value >> shift & 0xFFFF for value in values for shift in (0, 16, 32, 48)]
    for dropped in (1000, 30_000, 60_000):
        found = kept(torch.tensor([1234567]), 1, 20, torch.tensor([dropped]))
        assert found[0, 0].tolist() == [value >= dropped for value in sixteenths]


def test_what_a_lower_rate_drops_a_higher_one_drops() -> None:
    keys = torch.tensor([mask_key(1, 5)] * 2)
    low, high = kept(keys, 50, 99, torch.tensor([dropped_levels(0.5), dropped_levels(0.9)]))
    assert not (high & ~low).any()


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.95])
def test_the_compiled_lists_are_the_masks(rate: float) -> None:
    steps, rows, units = 3, 7, 41
    keys = [mask_key(2, step) for step in range(steps)]
    row_starts, unit_starts = np.zeros((steps, rows + 1), np.int64), np.zeros((steps, units + 1), np.int64)
    row_places, unit_places = (np.zeros(steps * rows * units + 1, np.int32) for _ in range(2))
    dropped = dropped_levels(rate)
    draw(np.array(keys, np.uint64), dropped, rows, units, row_starts, row_places, unit_starts, unit_places)
    masks = kept(torch.tensor(keys), rows, units, torch.full((steps,), dropped)).numpy()
    for step, mask in enumerate(masks):
        for row in range(rows):
            here = slice(row_starts[step, row], row_starts[step, row + 1])
            np.testing.assert_array_equal(row_places[here], np.flatnonzero(mask[row]))
        for unit in range(units):
            here = slice(unit_starts[step, unit], unit_starts[step, unit + 1])
            np.testing.assert_array_equal(unit_places[here], np.flatnonzero(mask[:, unit]))
