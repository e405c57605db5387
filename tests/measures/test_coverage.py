"""Risk and coverage: by hand, and where images are equally sure, the mean over all their orders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from largedrop.measures.coverage import risk_coverage


def test_by_hand() -> None:
    found = risk_coverage(np.array([0.6, 0.9, 0.8, 0.7]), np.array([False, True, False, True]))
    assert found.coverage == (0.25, 0.5, 0.75, 1.0)
    assert found.risk == pytest.approx((0, 1 / 2, 1 / 3, 2 / 4))
    assert found.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_ties_are_the_mean_over_their_orders() -> None:
    sure, right = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, False, True, True])
    curves = []
    for order in permutations((1, 2, 3)):
        wrong = ~right[[0, *order]]
        curves.append(wrong.cumsum() / np.arange(1, 5))
    found = risk_coverage(sure, right)
    assert found.risk == pytest.approx(np.mean(curves, axis=0))
    assert found.aurc == pytest.approx(np.mean(curves))


def test_of_many_images_a_hundred_points_are_kept() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(5000)
    found = risk_coverage(sure, rng.random(5000) < sure)
    assert len(found.coverage) == len(found.risk) == 101
    assert found.coverage[-1] == 1
    assert found.aurc == pytest.approx(0.25, abs=0.02)  # the surest half is wrong in a quarter, all in a half
    assert risk_coverage(np.array([0.5]), np.array([True])).risk == (0.0,)
