"""Calibration: the temperature that made the labels is found, as by another optimiser, and errors as by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from largedrop.measures.calibration import HOTTEST, calibration, fit_temperature, softmax

Ints = npt.NDArray[np.int64]


def drawn(temperature: float, n: int = 4000, classes: int = 5) -> tuple[npt.NDArray[np.float64], Ints, Ints]:
    """Logits of two domains (of which one has nine images in ten), and labels drawn from softmax(logits / T)."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n, classes))
    sums = softmax(logits, temperature).cumsum(axis=1)
    labels = (rng.random((n, 1)) > sums).sum(axis=1).astype(np.int64)
    return logits, labels, (rng.random(n) < 0.1).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    found = fit_temperature(*drawn(temperature))
    assert found == pytest.approx(temperature, rel=0.1)


def test_it_is_the_minimum_that_another_optimiser_finds() -> None:
    logits, labels, domains = drawn(1.7, n=300)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    rows, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    targets = (300 * torch.nn.functional.one_hot(truth, 5) + 0.2) / 301
    optimizer = torch.optim.LBFGS([inverse], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = -(targets * torch.log_softmax(inverse * rows, 1)).sum(1)
        value = (losses[domains == 0].mean() + losses[domains == 1].mean()) / 2
        value.backward()
        return value

    optimizer.step(loss)
    assert fit_temperature(logits, labels, domains) == pytest.approx(1 / inverse.item(), abs=1e-6)


def test_a_network_that_is_always_right_is_not_certain() -> None:
    labels = np.arange(100) % 5
    logits = 10 * np.eye(5)[labels]
    found = fit_temperature(logits, labels, labels % 2)
    assert found is not None
    assert 1 - softmax(logits, found).max(axis=1).mean() == pytest.approx(0.8 / 101, rel=1e-4)


def test_the_extremes() -> None:
    logits, _, domains = drawn(1.0, n=50)
    assert fit_temperature(logits, logits.argmin(axis=1), domains) == HOTTEST
    assert fit_temperature(0.0001 * logits, logits.argmax(axis=1), domains) == 0.05
    assert fit_temperature(np.full_like(logits, np.inf), logits.argmax(axis=1), domains) is None


def test_many_images_are_the_sum_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_temperature(*drawn(1.3, n=1000))
    monkeypatch.setattr("largedrop.measures.calibration._CHUNK", 35)
    assert fit_temperature(*drawn(1.3, n=1000)) == whole


def test_errors_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]])
    found = calibration(probabilities, np.array([0, 1, 1, -1]))
    # Four bins of one image each: 0.1 + 0.8 + 0.3 + 0.55.
    assert found.ece == pytest.approx(1.75 / 4)
    assert found.nll == pytest.approx(-np.log([0.9, 0.2, 0.7]).mean())
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.64 + 2 * 0.09) / 3)
    assert (found.confidence, found.n) == (pytest.approx(2.95 / 4), 4)
    # Two images in one bin, of which one is right, are well calibrated together.
    assert calibration(np.array([[0.52, 0.48], [0.48, 0.52]]), np.array([0, 0])).ece == pytest.approx(0.02)
    assert calibration(np.array([[1.0, 0.0]]), np.array([-1])).nll is None


def test_the_right_temperature_calibrates() -> None:
    logits, labels, _ = drawn(2.0)
    before, after = calibration(softmax(logits), labels), calibration(softmax(logits, 2.0), labels)
    assert before.ece > 0.1
    assert after.ece < 0.03
    assert after.nll is not None
    assert before.nll is not None
    assert after.nll < before.nll
