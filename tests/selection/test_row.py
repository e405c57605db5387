"""Rows: means, standard errors, gains and clouds against sums done by hand and plain loops."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from tests.helpers import TWO_SETTINGS, record

from largedrop.runs.estimate import Estimate
from largedrop.runs.record import Record
from largedrop.selection.averages import Missing, average
from largedrop.selection.row import combinations
from largedrop.selection.selection import select, summarise


def comparison(*missing: tuple[str, float, str, int]) -> list[Record]:
    """Plain fine-tuning, dropout 0.9 and a probe of one seed and domain; but for some (method, rate, domain, seed)."""
    scores = {
        ("linear-probe", 0.0, "a"): [(0.70, 0.40)],
        ("fine-tuning", 0.9, "a"): [(0.90, 0.70), (0.92, 0.76)],
        ("fine-tuning", 0.9, "b"): [(0.80, 0.50), (0.82, 0.52)],
        ("fine-tuning", 0.0, "a"): [(0.88, 0.60), (0.90, 0.64)],
        ("fine-tuning", 0.0, "b"): [(0.80, 0.44), (0.84, 0.48)],
    }
    return [
        record(domain, seed, iid, ood, method, dropout)
        for (method, dropout, domain), pairs in scores.items()
        for seed, (iid, ood) in enumerate(pairs)
        if (method, dropout, domain, seed) not in missing
    ]


def test_the_time_is_the_mean_of_the_chosen_runs_on_the_test_domains() -> None:
    slow = [replace(entry, seconds=10.0 * (1 + number)) for number, entry in enumerate(TWO_SETTINGS)]
    (row,) = select(average(slow), tuned=("lr",))
    assert row.chosen["a"].value("lr") == "0.1"
    assert row.chosen["b"].value("lr") == "0.5"
    assert row.seconds == (10 + 20 + 70 + 80) / 4
    assert row.domains["b"].seconds == 75
    assert replace(row, chosen={}).seconds is None


def near(estimate: Estimate | None, mean: float, error: float | None, n: int) -> bool:
    assert estimate is not None
    return (estimate.mean, estimate.error, estimate.n) == (pytest.approx(mean), pytest.approx(error, abs=1e-11), n)


def test_means_standard_errors_and_gains_by_hand() -> None:
    baseline, dropout, _ = summarise(comparison())
    # Seeds: 0 → (0.90 + 0.80) / 2 = 0.85 and (0.70 + 0.50) / 2 = 0.60; 1 → 0.87 and 0.64. Two values d apart have a
    # standard deviation of d/√2 (ddof = 1) and a standard error of d/2.
    assert near(dropout.iid, 0.86, 0.01, 2)
    assert near(dropout.ood, 0.62, 0.02, 2)
    assert near(baseline.ood, 0.54, 0.02, 2)
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert near(dropout.domains["b"].iid, 0.81, 0.01, 2)
    # a: +0.10, +0.12; b: +0.06, +0.04; overall, by seed: +0.08, +0.08. The means alone have errors of 0.02 each, which
    # unpaired would give 0.028.
    assert near(dropout.domains["a"].gain, 0.11, 0.01, 2)
    assert near(dropout.domains["b"].gain, 0.05, 0.01, 2)
    assert near(dropout.gain, 0.08, 0.0, 2)
    assert baseline.gain is None


def test_one_seed_has_no_standard_error() -> None:
    rows = summarise(each for each in comparison() if each.seed == 0 and each.method == "fine-tuning")
    assert (rows[1].ood, rows[1].gain) == (Estimate(0.6, None, 1), Estimate(0.08, None, 1))


def test_missing_runs_are_named_and_their_seeds_left_out() -> None:
    baseline, dropout, probe = summarise(comparison(("fine-tuning", 0.9, "b", 1)))
    assert (baseline.complete, dropout.complete) == (True, False)
    assert dropout.missing == (Missing(dropout.setting, "b", 1),)
    assert dropout.ood == Estimate(0.6, None, 1)  # seed 0 alone
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert (dropout.domains["a"].missing, dropout.domains["b"].missing) == ((), dropout.missing)
    assert dropout.domains["b"].ood == Estimate(0.5, None, 1)
    assert [(run.test_domain, run.seed) for run in probe.missing] == [("a", 1), ("b", 0), ("b", 1)]
    assert (probe.iid, probe.ood, probe.gain, probe.n) == (None, None, None, 0)
    assert probe.domains["a"].gain == Estimate(-0.2, None, 1)


def test_a_gain_is_over_the_seeds_that_plain_fine_tuning_has_too() -> None:
    dropout = summarise(comparison(("fine-tuning", 0.0, "b", 0)))[1]
    assert near(dropout.ood, 0.62, 0.02, 2)
    assert dropout.gain == Estimate(0.08, None, 1)


def test_a_comparison_may_have_more_than_the_records() -> None:
    (row,) = summarise([record("a", seed, 0.9, 0.7) for seed in (0, 1)], domains=("c", "a"), seeds=(0, 1))
    assert [(run.test_domain, run.seed) for run in row.missing] == [("c", 0), ("c", 1)]
    assert (list(row.domains), row.ood) == (["c", "a"], None)


def test_a_comparison_whose_runs_leave_out_a_domain() -> None:
    (row,) = summarise([record("a", seed, 0.9, 0.6 + 0.1 * seed, left_out="c") for seed in (0, 1)])
    assert near(row.ood, 0.65, 0.05, 2)


def test_linear_fits_gain_over_the_fine_tuning_of_their_settings() -> None:
    rows = summarise(
        [
            record("a", 0, 0.9, 0.60, fit="all", size=96),
            record("a", 0, 0.9, 0.65, fit="all", size=128),
            record("a", 0, 0.9, 0.70, "linear-fine-tuning", fit="linear", size=128),
        ]
    )
    assert [row.gain for row in rows] == [None, None, Estimate(0.05, None, 1)]


def test_random_grids_have_the_numbers_of_the_two_aggregations_that_this_one_replaced() -> None:
    draw = random.Random(10).random
    methods = (("fine-tuning", 0.0), ("fine-tuning", 0.9), ("ensemble", 0.0))
    records = [
        record(domain, seed, draw(), draw(), method, dropout)
        for method, dropout in methods
        for domain in "abc"
        for seed in range(3)
    ]
    _, dropout, ensemble = summarise(records)
    assert dropout.iid == Estimate(0.523901263228, 0.207182085209, 3)
    assert dropout.ood == Estimate(0.531575066217, 0.026825751605, 3)
    assert dropout.gain == Estimate(0.105934994222, 0.165908803522, 3)
    assert dropout.domains["b"].gain == Estimate(-0.097732652323, 0.479056000527, 3)
    assert ensemble.gain == Estimate(-0.074692164637, 0.20268275338, 3)
    # Without plain fine-tuning on b with seed 1, and dropout 0.9 on c with seed 2.
    baseline, dropout, ensemble = summarise(each for index, each in enumerate(records) if index not in (4, 17))
    assert baseline.ood == Estimate(0.448949832205, 0.237724834324, 2)
    assert dropout.ood == Estimate(0.555563845158, 0.020796112673, 2)
    assert dropout.gain == Estimate(0.365134959949, None, 1)
    assert dropout.domains["b"].gain == Estimate(-0.004842889105, 0.814001492991, 2)
    assert ensemble.gain == Estimate(-0.26189890114, 0.134542963311, 2)


def test_combinations_of_two_settings_on_two_domains_by_a_plain_loop() -> None:
    (row,) = select(average(TWO_SETTINGS))
    means = row.averages.means
    expected = [
        [(means[first, 0, kind] + means[second, 1, kind]) / 2 for kind in (0, 1)]
        for first in (0, 1)
        for second in (0, 1)
    ]
    np.testing.assert_allclose(row.cloud(), expected, atol=1e-15)
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


def test_a_centre_is_the_mean_of_the_cloud() -> None:
    (row,) = select(average(TWO_SETTINGS))
    assert row.centre is not None
    np.testing.assert_allclose([each.mean for each in row.centre], row.cloud().mean(0))
    # seed 0: (0.4 + 0.6 + 0.9 + 0.2) / 4 = 0.525, seed 1: (0.5 + 0.7 + 0.8 + 0.4) / 4 = 0.6
    assert (row.centre[1].n, row.centre[1].error, row.dots) == (2, pytest.approx(0.0375), 4)
    (short,) = select(average(run for run in TWO_SETTINGS if (run.test_domain, run.seed) != ("b", 1)))
    assert (short.centre, short.dots, short.cloud().shape) == (None, 0, (0, 2))


def test_a_centre_with_missing_runs_is_over_the_seeds_that_have_all_of_them() -> None:
    (row,) = select(average(TWO_SETTINGS[1:], allow_missing=True))
    assert row.centre is not None
    # seed 1 alone
    assert (row.centre[1].mean, row.centre[1].n, row.centre[1].error, row.dots) == (pytest.approx(0.6), 1, None, 4)
    (strict,) = select(average(TWO_SETTINGS[1:]))
    assert strict.dots == 2  # lr 0.5 on a, each of the two on b
