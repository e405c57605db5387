"""Averages and clouds against sums done by hand and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.helpers import TWO_SETTINGS, record

from largedrop.errors import UserError
from largedrop.selection.averages import Missing, average, combinations
from largedrop.selection.groups import Setting

LOW, HIGH = Setting("fine-tuning", 0.0, (("lr", 0.1),)), Setting("fine-tuning", 0.0, (("lr", 0.5),))


def test_means_over_seeds_by_hand() -> None:
    found = average(TWO_SETTINGS)
    assert found.settings == (LOW, HIGH)
    assert (found.domains, found.seeds, found.missing) == (("a", "b"), (0, 1), ())
    np.testing.assert_allclose(found.means, [[[0.75, 0.45], [0.80, 0.85]], [[0.70, 0.65], [0.85, 0.30]]], atol=1e-15)
    assert found.values.shape == (2, 2, 2, 2)
    assert found.values[1, 0, 1, 1] == 0.70


def test_missing_seeds_are_named_and_leave_the_mean_out() -> None:
    found = average(TWO_SETTINGS[1:])
    assert found.missing == (Missing(LOW, "a", 0),)
    assert str(found.missing[0]) == "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0"
    assert np.isnan(found.means[0, 0]).all()
    assert not np.isnan(found.means[1]).any()
    lenient = average(TWO_SETTINGS[1:], allow_missing=True)
    np.testing.assert_allclose(lenient.means[0, 0], [0.80, 0.50])
    assert lenient.missing == found.missing


def test_a_grid_may_have_more_than_the_records() -> None:
    found = average(TWO_SETTINGS, seeds=(2,), domains=("c",))
    assert found.domains == ("c", "a", "b")
    assert found.seeds == (0, 1, 2)
    assert len(found.missing) == 2 * 3 * 3 - 8
    assert np.isnan(found.means).all()


def test_two_records_of_one_run_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        average([*TWO_SETTINGS, TWO_SETTINGS[0], record("b", 1, 0, 0, lr=0.5)])
    assert str(caught.value) == (
        "there are two records of the same run:\n"
        "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0\n"
        "fine-tuning, dropout 0, lr 0.5; test domain b, seed 1"
    )


def test_combinations_of_two_settings_on_two_domains_by_a_plain_loop() -> None:
    found = average(TWO_SETTINGS)
    expected = [
        [(found.means[first, 0, kind] + found.means[second, 1, kind]) / 2 for kind in (0, 1)]
        for first in (0, 1)
        for second in (0, 1)
    ]
    np.testing.assert_allclose(found.cloud([LOW, HIGH]), expected, atol=1e-15)
    np.testing.assert_allclose(expected, [[0.775, 0.65], [0.80, 0.375], [0.75, 0.75], [0.775, 0.475]])


def test_the_papers_1296_dots_are_those_of_itertools() -> None:
    choices = np.random.default_rng(0).random((4, 6, 2))
    expected = [np.mean(picked, axis=0) for picked in itertools.product(*choices)]
    found = combinations(choices)  # type: ignore[arg-type]
    assert found.shape == (1296, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_domains_may_have_different_numbers_of_settings() -> None:
    assert combinations([np.zeros((2, 2)), np.ones((3, 2))]).tolist() == [[0.5, 0.5]] * 6
    assert combinations([np.zeros((2, 2)), np.empty((0, 2))]).shape == (0, 2)


def test_more_combinations_than_wanted_are_drawn_from_and_always_the_same() -> None:
    choices = np.random.default_rng(0).random((4, 7, 2))
    points = combinations(choices, most=1296)  # type: ignore[arg-type]
    assert points.shape == (1296, 2)
    np.testing.assert_array_equal(points, combinations(choices, most=1296))  # type: ignore[arg-type]
    # The mean of the draws is near to the mean of all choices, which is the mean of the runs.
    np.testing.assert_allclose(points.mean(0), choices.mean((0, 1)), atol=0.01)


def test_centre_is_the_mean_of_the_cloud() -> None:
    found = average(TWO_SETTINGS)
    middle = found.centre([LOW, HIGH])
    assert middle is not None
    np.testing.assert_allclose([each.mean for each in middle], found.cloud([LOW, HIGH]).mean(0))
    # seed 0: (0.4 + 0.6 + 0.9 + 0.2) / 4 = 0.525, seed 1: (0.5 + 0.7 + 0.8 + 0.4) / 4 = 0.6
    assert (middle[1].n, middle[1].error) == (2, pytest.approx(0.0375))
    short = [each for each in TWO_SETTINGS if (each.test_domain, each.seed) != ("b", 1)]
    assert average(short).centre([LOW, HIGH]) is None


def test_a_centre_with_missing_runs_is_over_the_seeds_that_have_all_of_them() -> None:
    found = average(TWO_SETTINGS[1:], allow_missing=True)
    middle = found.centre([LOW, HIGH])
    assert middle is not None
    assert (middle[1].mean, middle[1].n, middle[1].error) == (pytest.approx(0.6), 1, None)  # seed 1 alone
    assert average(TWO_SETTINGS[1:]).dots([LOW, HIGH]) == 2  # lr 0.5 on a, each of the two on b
    assert found.dots([LOW, HIGH]) == 4
