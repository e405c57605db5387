"""Averages and clouds against sums done by hand and plain loops."""

from __future__ import annotations

import numpy as np
from tests.helpers import TWO_SETTINGS, record, refusal

from largedrop.selection.averages import Missing, average
from largedrop.selection.settings import Setting

LOW, HIGH = Setting("fine-tuning", 0.0, (("lr", 0.1),)), Setting("fine-tuning", 0.0, (("lr", 0.5),))


def test_means_over_seeds_by_hand() -> None:
    found = average(TWO_SETTINGS)
    assert found.settings == (LOW, HIGH)
    assert (found.domains, found.seeds, found.missing) == (("a", "b"), (0, 1), ())
    np.testing.assert_allclose(
        found.means[..., :2], [[[0.75, 0.45], [0.80, 0.85]], [[0.70, 0.65], [0.85, 0.30]]], atol=1e-15
    )
    assert found.values.shape == (2, 2, 2, 4)
    assert found.values[1, 0, 1, 1] == 0.70


def test_missing_seeds_are_named_and_leave_the_mean_out() -> None:
    found = average(TWO_SETTINGS[1:])
    assert found.missing == (Missing(LOW, "a", 0),)
    assert str(found.missing[0]) == "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0"
    assert np.isnan(found.means[0, 0]).all()
    assert not np.isnan(found.means[1, :, :2]).any()
    lenient = average(TWO_SETTINGS[1:], allow_missing=True)
    np.testing.assert_allclose(lenient.means[0, 0, :2], [0.80, 0.50])
    assert lenient.missing == found.missing


def test_a_grid_may_have_more_than_the_records() -> None:
    found = average(TWO_SETTINGS, seeds=(2,), domains=("c",))
    assert found.domains == ("c", "a", "b")
    assert found.seeds == (0, 1, 2)
    assert len(found.missing) == 2 * 3 * 3 - 8
    assert np.isnan(found.means).all()


def test_two_records_of_one_run_are_refused() -> None:
    assert refusal(average, [*TWO_SETTINGS, TWO_SETTINGS[0], record("b", 1, 0, 0, lr=0.5)]) == (
        "there are two records of the same run:\n"
        "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0\n"
        "fine-tuning, dropout 0, lr 0.5; test domain b, seed 1"
    )


def test_runs_that_differ_in_their_training_share_a_linear_probe() -> None:
    runs = [
        record("a", seed, 0.8, 0.5 + rate / 10, method, rate, objective=objective, lr=lr)
        for method in ("fine-tuning", "linear-probe")
        for seed in (0, 1)
        for rate in (0.0, 0.9)
        for objective in ("erm", "vrex")
        for lr in (0.1, 0.2)
    ]
    found = average(runs)
    assert [str(each) for each in found.settings if each.method == "linear-probe"] == [
        f"linear-probe, dropout {rate}, lr {lr}" for rate in ("0", "0.9") for lr in ("0.1", "0.2")
    ]
    assert len([each for each in found.settings if each.method == "fine-tuning"]) == 8
    assert found.missing == ()
    assert refusal(average, [*runs, runs[-4]]).endswith("\nlinear-probe, dropout 0.9, lr 0.1; test domain a, seed 1")
