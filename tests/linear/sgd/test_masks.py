"""Masks as a function of (seed, step, rate)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from largedrop.linear.sgd.masks import draw, multiplier


def masks(rate: float, steps: int, rows: int, units: int) -> npt.NDArray[np.float64]:
    found = np.empty((steps, rows, units))
    for step in range(steps):
        multiplier(draw(1, step, rows, units), rate, found[step])
    return found


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_a_rate_drops_as_much_as_it_says(rate: float) -> None:
    found = masks(rate, 4, 100, 1001)
    assert np.unique(found).tolist() == pytest.approx([0, 1 / (1 - rate)] if rate else [1], rel=2e-4)
    assert found.mean() == pytest.approx(1, abs=0.004 / (1 - rate))  # five standard errors
    kept = found > 0
    for axis in (0, 1, 2):  # neighbours are independent
        first, second = np.delete(kept, -1, axis), np.delete(kept, 0, axis)
        assert (first & second).mean() == pytest.approx((1 - rate) ** 2, abs=0.005)


def test_what_a_lower_rate_drops_a_higher_one_drops() -> None:
    assert not (masks(0.9, 2, 50, 99)[masks(0.5, 2, 50, 99) == 0]).any()
