"""Masks as a function of (seed, step, rate)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from largedrop.linear.sgd.drawing import draw, gather, mask, pack, thin, turn
from largedrop.linear.sgd.masks import dropped_levels, kept, mask_key


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


def test_the_compiled_lists_are_the_masks() -> None:
    """Also the lists of a higher rate, which are made from a lower one's."""
    units = 41
    rows, words = 7, -(-units // 4)
    drawn = np.empty((rows, 4 * words), np.uint16)
    key = mask_key(2, 5)
    draw(np.uint64(key), drawn.ravel().view(np.uint64))
    x = np.random.default_rng(0).standard_normal((rows, 2 * units + 3))
    lower: tuple[np.ndarray, ...] = ()
    for rate in (0.5, 0.9, 0.95):
        dropped = dropped_levels(rate)
        lists = np.empty(rows + 1, np.int64), *(np.empty(rows * units + 1, np.uint16) for _ in range(2))
        if lower:
            thin(dropped, *lower, *lists)
        else:
            gather(drawn, dropped, units, *lists)
        row_starts, row_places, _ = lower = lists
        unit_starts, unit_places = np.empty(units + 1, np.int64), np.empty(rows * units + 1, np.uint16)
        order, packed = np.empty(rows * units + 1, np.int32), np.empty((2, rows * units + 1))
        turn(row_starts, row_places, unit_starts, unit_places, order)
        pack(x, units, row_starts, row_places, packed)
        masked = np.zeros_like(x)
        mask(x, units, drawn, dropped, masked)

        wanted = kept(torch.tensor([key]), rows, units, torch.tensor([dropped]))[0].numpy()
        np.testing.assert_array_equal(masked, np.pad(x[:, :-3] * np.tile(wanted, 2), ((0, 0), (0, 3))))
        for row in range(rows):
            here = slice(row_starts[row], row_starts[row + 1])
            np.testing.assert_array_equal(row_places[here], np.flatnonzero(wanted[row]))
            for tap in range(2):
                np.testing.assert_array_equal(packed[tap, here], x[row, tap * units : (tap + 1) * units][wanted[row]])
        for unit in range(units):
            here = slice(unit_starts[unit], unit_starts[unit + 1])
            np.testing.assert_array_equal(unit_places[here], np.flatnonzero(wanted[:, unit]))
            np.testing.assert_array_equal(packed[0, order[here]], x[wanted[:, unit], unit])
