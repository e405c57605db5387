"""Intervals: published values, their coverage in simulations, and the groups that make them wider."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from largedrop.measures.intervals import mcnemar, newcombe, resampled, scored, wilson


def parts(n: int, classes: int = 3, domains: int = 1, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "labels": rng.integers(classes, size=n),
        "domains": np.sort(rng.integers(domains, size=n)),
        "groups": np.arange(n),
        "classes": classes,
    }


def covered(truth: float, draw: Any, times: int = 400) -> float:
    found = [draw(np.random.default_rng(seed)) for seed in range(times)]
    return float(np.mean([low <= truth <= high for low, high in found]))


def test_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(1000, 1200) < 1e-4
    low, high = newcombe(10, 0, 0, 5)
    assert -high == pytest.approx(low)
    assert newcombe(3, 4, 1, 2) == pytest.approx([-limit for limit in newcombe(3, 1, 4, 2)[::-1]])


def test_scores_by_hand() -> None:
    right = np.array([True, False, True, True, False, True])
    labels, domains = np.array([0, 0, 2, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    (first, second), all_of = scored(right, labels, domains, np.arange(6), 3)
    assert (first.accuracy.value, first.macro.value) == (pytest.approx(2 / 3), pytest.approx(3 / 4))
    assert [each and (each.value, each.n) for each in first.classes] == [(0.5, 2), None, (1.0, 1)]
    assert first.groups is None
    assert (first.accuracy.low, first.accuracy.high) == wilson(2, 3)
    assert all_of.macro.value == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert all_of.accuracy.n == 6
    assert second.accuracy.value == all_of.accuracy.value == pytest.approx(2 / 3)
    # Independent means of two: the interval shrinks by the square root of two.
    assert all_of.accuracy.high - 2 / 3 == pytest.approx((first.accuracy.high - 2 / 3) / np.sqrt(2))


@pytest.mark.parametrize("take", ["accuracy", "macro"])
def test_they_hold_the_truth_as_often_as_they_say(take: str) -> None:
    """With classes of 5 to 60 images and accuracies of 0.5 to 0.95."""
    labels = np.repeat([0, 1, 2], [60, 20, 5])
    chances = np.array([0.95, 0.8, 0.5])[labels]
    truth = float(chances.mean()) if take == "accuracy" else 0.75

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        right = rng.random(85) < chances
        (found,), _ = scored(right, labels, np.zeros(85, np.int64), np.arange(85), 3)
        interval = getattr(found, take)
        return interval.low, interval.high

    assert 0.92 <= covered(truth, draw) <= 0.99


def test_differences_hold_the_truth_as_often_as_they_say() -> None:
    labels = np.repeat([0, 1], [40, 20])

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        easy = rng.random(60)
        one, other = easy + 0.2 * rng.random(60) < 0.7, easy + 0.2 * rng.random(60) < 0.8
        (found,), _ = scored(other, labels, np.zeros(60, np.int64), np.arange(60), 2, against=one)
        return found.macro.low, found.macro.high

    assert 0.92 <= covered(0.1, draw) <= 1


def test_images_of_a_group_are_one_trial() -> None:
    """Ten copies of each of thirty images: the interval is that of thirty images, not of three hundred."""
    rng = np.random.default_rng(0)
    once = rng.random(30) < 0.7
    right, groups = np.repeat(once, 10), np.repeat(np.arange(30), 10)
    labels, domains = np.zeros(300, np.int64), np.zeros(300, np.int64)
    (found,), over_all = scored(right, labels, domains, groups, 1)
    assert found.groups == 30
    width = found.accuracy.high - found.accuracy.low
    low, high = wilson(int(once.sum()), 30)
    assert width == pytest.approx(high - low, rel=0.15)
    assert over_all.accuracy.high - over_all.accuracy.low == width
    again, _ = scored(right, labels, domains, groups, 1)
    assert again == [found]  # always the same draws
    (sure,), _ = scored(np.ones(300, np.bool_), labels, domains, groups, 1)
    assert (sure.accuracy.low, sure.accuracy.high) == wilson(30, 30)
    assert sure.classes[0] == sure.accuracy


@pytest.mark.parametrize("against", [False, True])
def test_one_group_is_one_trial_and_never_certain(against: bool) -> None:
    right, labels = np.array([True, False] * 4), np.repeat([0, 1], 4)
    other = np.array([False, False, True, False] * 2) if against else None
    (one, two), over_all = scored(right, labels, np.tile([0, 0, 1, 1], 2), np.zeros(8, np.int64), 2, other)
    for scores in (one, two, over_all):
        for found in (scores.accuracy, scores.macro, *filter(None, scores.classes)):
            assert found.low < found.value - 0.2
            assert found.high > found.value + 0.2
    if not against:
        assert (one.accuracy.low, one.accuracy.high) == wilson(0.5, 1)
    sure = np.ones(8, np.bool_)
    _, over_all = scored(sure, labels, np.tile([0, 1], 4), np.repeat(np.arange(4), 2), 2)
    assert over_all.accuracy.value == over_all.accuracy.high == 1
    assert over_all.accuracy.low < 0.9


def test_groups_that_span_domains_tie_their_means() -> None:
    once = np.random.default_rng(0).random(50) < 0.7
    right, labels, groups = np.tile(once, 2), np.zeros(100, np.int64), np.tile(np.arange(50), 2)
    each, over_all = scored(right, labels, np.repeat([0, 1], 50), groups, 1)
    assert [scores.groups for scores in each] == [None, None]
    assert over_all.groups == 50
    width = over_all.accuracy.high - over_all.accuracy.low
    assert width == pytest.approx(each[0].accuracy.high - each[0].accuracy.low, rel=0.1)  # and not over √2


def test_samples_of_groups() -> None:
    found = resampled(np.array([1.0, 2.0, 4.0]), np.array([0, 1, 1]), np.array([7, 7, 9]), 2, draws=200)
    rows: npt.NDArray[Any] = np.column_stack([found.sums, found.counts])
    assert {tuple(row) for row in rows} == {(2, 4, 2, 2), (1, 6, 1, 2), (0, 8, 0, 2)}


@pytest.mark.parametrize("n", [1, 7, 12, 84])
def test_nothing_right_has_an_interval_from_zero(n: int) -> None:
    zeros = np.zeros(n, np.int64)
    each, mean = scored(np.zeros(n, np.bool_), zeros, zeros, np.arange(n), 1)
    for scores in (*each, mean):
        for interval in (scores.accuracy, scores.macro, *filter(None, scores.classes)):
            assert 0 <= interval.low < 1e-12
