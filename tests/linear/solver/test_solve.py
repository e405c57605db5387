"""The converged solver: the optimum of independent solvers, alone or in company, and what it says of bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.linear.solver.expected import gaussian_loss, masked_loss
from torch import Tensor
from torch.nn import functional as F

from largedrop.data.random import torch_seed
from largedrop.errors import UserError
from largedrop.linear.solver.passes import SAMPLES
from largedrop.linear.solver.solve import ProbeFit, solve_probes
from largedrop.training.head import fit_head

CLASSES, UNITS = 4, 24
Domains = tuple[list[Tensor], list[Tensor]]


def problem(counts: tuple[int, ...] = (150, 60), noise: float = 1.6, units: int = UNITS, seed: int = 0) -> Domains:
    """Overlapping Gaussian classes, shifted by domain: no head gets all of them right. Float64."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, units, generator=draw, dtype=torch.float64) * 0.8
    features, labels = [], []
    for count in counts:
        target = torch.arange(count) % CLASSES
        shift = torch.randn(units, generator=draw, dtype=torch.float64) * 0.3
        drawn = torch.randn(count, units, generator=draw, dtype=torch.float64)
        features.append((means[target] + shift + noise * drawn).relu())
        labels.append(target)
    return features, labels


def true_loss(domains: Domains, fit: Any, rate: float, masks: int = 400, seed: int = 99) -> float:
    """On masks that no fit has seen, the domains counting the same."""
    losses = [
        float(masked_loss(x, y, fit.weight.double(), fit.bias.double(), rate, masks, seed).mean())
        for x, y in zip(*domains, strict=True)
    ]
    return sum(losses) / len(losses)


def only(*arguments: Any, **settings: Any) -> ProbeFit:
    """The one fit that was asked for."""
    (fit,) = solve_probes(*arguments, **settings)
    return fit


@pytest.mark.parametrize("weighed", [False, True])
def test_without_dropout_it_is_logistic_regression(weighed: bool) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = problem()
    decay = 0.01
    factors = [
        torch.tensor([0.4, 1.6, 0.7, 1.3], dtype=torch.float64)[y] if weighed else torch.ones(len(y)) for y in labels
    ]
    given = {"weights": [factors]} if weighed else {}
    fit = only(features, labels, CLASSES, [0.0], decay, tolerance=1e-14, **given)
    weights = torch.cat([each / len(each) / 2 for each in factors]).numpy()
    reference = linear_model.LogisticRegression(C=1 / decay, tol=1e-10, max_iter=10_000).fit(
        torch.cat(features).numpy(), torch.cat(labels).numpy(), sample_weight=weights
    )
    assert fit.stopped == "converged"
    torch.testing.assert_close(fit.weight, torch.from_numpy(reference.coef_), rtol=0, atol=1e-5)
    reference_bias = torch.from_numpy(reference.intercept_)
    torch.testing.assert_close(fit.bias, reference_bias - reference_bias.mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_the_gradient_vanishes_at_the_fit(rate: float) -> None:
    """Of the same objective by automatic differentiation."""
    features, labels = problem(counts=(40, 30))
    fit = only(features, labels, CLASSES, [rate], 0.01, tolerance=1e-14, seed=2)

    def slope(weight: Tensor, bias: Tensor) -> float:
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = 0.005 * weight.square().sum()
        for domain, (x, y) in enumerate(zip(features, labels, strict=True)):
            seed = torch_seed("probe", 2, domain)
            loss = loss + 0.5 * gaussian_loss(x, y, weight, bias, rate, SAMPLES, seed).mean()
        return float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (weight, bias))]).norm())

    assert fit.stopped == "converged"
    assert slope(fit.weight, fit.bias) < 1e-5 * slope(0 * fit.weight + 1e-6, 0 * fit.bias)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_it_is_no_worse_than_the_stochastic_fit(rate: float) -> None:
    """Where enough units are kept for Gaussian logits to be right."""
    features, labels = problem(counts=(300, 120), units=64)
    fit = only(features, labels, CLASSES, [rate], 0.0)
    other = fit_head([x.float() for x in features], labels, CLASSES, rate, 0.0, 0).last
    assert fit.stopped == "converged"
    assert true_loss((features, labels), fit, rate) < true_loss((features, labels), other, rate) + 2e-3


def test_a_grid_is_its_settings_one_by_one() -> None:
    features, labels = problem(counts=(80, 60, 70))
    rates, subsets = (0.0, 0.5, 0.9), ((0, 1), (0, 2), (1,))
    fits = solve_probes(features, labels, CLASSES, rates, 0.01, subsets, tolerance=1e-10)
    asked = [(subset, rate) for subset in subsets for rate in rates]
    assert [(fit.domains, fit.rate) for fit in fits] == asked
    for (domains, rate), fit in zip(asked, fits, strict=True):
        alone = only(features, labels, CLASSES, [rate], 0.01, [domains], tolerance=1e-10)
        torch.testing.assert_close(fit.weight, alone.weight, rtol=0, atol=1e-4)
        assert fit.loss == pytest.approx(alone.loss, abs=1e-6)
        torch.testing.assert_close(fit.weight.sum(0), torch.zeros(UNITS, dtype=torch.float64))


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_alone() -> None:
    features, labels = problem()
    state = torch.get_rng_state()
    fits = [only(features, labels, CLASSES, [0.7], 0.0, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert not torch.equal(fits[0].weight, fits[2].weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_float16_features_are_fitted_in_float32() -> None:
    features, labels = problem()
    half = [x.half() for x in features]
    fit = only(half, labels, CLASSES, [0.5], 0.01)
    exact = only([x.double() for x in half], labels, CLASSES, [0.5], 0.01)
    assert fit.weight.dtype == torch.float32
    assert fit.stopped == "converged"
    assert fit.loss == pytest.approx(exact.loss, rel=1e-3)


def test_separable_images_stop_the_fit() -> None:
    features, labels = problem(noise=0.01)
    plain = only(features, labels, CLASSES, [0.0], 0.0)
    assert plain.stopped == "separable"
    assert plain.loss < 0.014
    assert only(features, labels, CLASSES, [0.0], 0.01).stopped == "converged"
    assert only(features, labels, CLASSES, [0.0], 0.01, tolerance=1e-40).stopped == "limit"


def test_an_absent_class_is_never_predicted() -> None:
    features, labels = problem(counts=(120, 80, 60))
    present = labels[0] != 2
    features[0], labels[0] = features[0][present], labels[0][present]
    fits = solve_probes(features, labels, CLASSES, [0.5], 0.01, [(0,), (0, 1)])
    assert float(fits[0].weight[2].abs().max()) == 0
    assert float(fits[0].bias[2]) == -1e4
    assert not bool((F.linear(features[1], fits[0].weight, fits[0].bias).argmax(1) == 2).any())
    assert float(fits[1].weight[2].abs().max()) > 0
    renamed = torch.tensor([0, 1, -1, 2])[labels[0]]
    three = only([features[0]], [renamed], 3, [0.5], 0.01)
    torch.testing.assert_close(fits[0].weight[[0, 1, 3]], three.weight)


def test_bad_input_gets_one_clear_line() -> None:
    features, labels = problem(counts=(20, 20))
    with pytest.raises(UserError, match="takes 2 to 40 classes, not 41"):
        solve_probes(features, labels, 41, [0.5], 0.0)
    with pytest.raises(UserError, match="images of two or more classes"):
        solve_probes(features[:1], [torch.zeros(20, dtype=torch.int64)], CLASSES, [0.5], 0.0)
    features[1][3, 4] = float("nan")
    with pytest.raises(UserError, match=r"the features of domain 1 contain NaN or infinity"):
        solve_probes(features, labels, CLASSES, [0.5], 0.0)
