"""The converged solver: the optimum of independent solvers, alone or in company, and what it says of bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.linear.solver.expected import gaussian_loss, masked_loss
from torch import Tensor
from torch.nn import functional as F

from largedrop.errors import UserError
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


def test_without_dropout_it_is_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = problem()
    decay = 0.01
    fit = only(features, labels, CLASSES, [0.0], [decay], tolerance=1e-14)
    weights = torch.cat([torch.full((len(y),), 1 / len(y) / 2) for y in labels]).numpy()
    reference = linear_model.LogisticRegression(C=1 / decay, tol=1e-10, max_iter=10_000).fit(
        torch.cat(features).numpy(), torch.cat(labels).numpy(), sample_weight=weights
    )
    assert fit.converged
    torch.testing.assert_close(fit.weight, torch.from_numpy(reference.coef_), rtol=0, atol=1e-5)
    reference_bias = torch.from_numpy(reference.intercept_)
    torch.testing.assert_close(fit.bias, reference_bias - reference_bias.mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_the_gradient_vanishes_at_the_fit(rate: float) -> None:
    """Of the same objective on other samples, many of them, by automatic differentiation."""
    features, labels = problem(counts=(400, 300))
    fit = only(features, labels, CLASSES, [rate], [0.01], samples=2000, tolerance=1e-12)

    def slope(weight: Tensor, bias: Tensor) -> float:
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        pairs = zip(features, labels, strict=True)
        losses = [gaussian_loss(x, y, weight, bias, rate, 2000, seed=5).mean() for x, y in pairs]
        loss = torch.stack(losses).mean() + 0.005 * weight.square().sum()
        return float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (weight, bias))]).norm())

    assert fit.converged
    assert slope(fit.weight, fit.bias) < 0.02 * slope(0 * fit.weight, 0 * fit.bias)


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_it_is_no_worse_than_the_stochastic_fit(rate: float) -> None:
    features, labels = problem(counts=(300, 120), units=64)
    fit = only(features, labels, CLASSES, [rate], masks=200)
    other = fit_head([x.float() for x in features], labels, CLASSES, rate, 0.0, 0).last
    assert fit.converged
    assert true_loss((features, labels), fit, rate) < true_loss((features, labels), other, rate) + 2e-3


def test_masks_correct_a_fit_to_few_units() -> None:
    domains = problem(counts=(240, 160), units=6, noise=0.5)
    rate = 0.8
    plain = only(*domains, CLASSES, [rate])
    fixed = only(*domains, CLASSES, [rate], masks=600)
    weight = torch.zeros(CLASSES, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    draw = torch.Generator().manual_seed(4)
    masked = [
        (x.repeat(150, 1) * (torch.rand(150 * len(x), 6, generator=draw) >= rate) / (1 - rate)) for x in domains[0]
    ]
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        pairs = zip(masked, domains[1], strict=True)
        loss = torch.stack([F.cross_entropy(F.linear(x, weight, bias), y.repeat(150)) for x, y in pairs]).mean()
        loss.backward()
        return float(loss.detach())

    solver.step(closure)
    best = type("Head", (), {"weight": weight.detach(), "bias": bias.detach()})
    least = true_loss(domains, best, rate, 2000)
    before, after = (true_loss(domains, fit, rate, 2000) - least for fit in (plain, fixed))
    assert before > 1e-3
    assert after < 0.5 * before
    first = fixed.corrections[0]
    assert 0 < first.excess < before
    assert first.loss == pytest.approx(least + before, rel=0.02)
    assert first.share > 0.8
    assert len(fixed.corrections) == 3
    assert plain.corrections == ()


def test_a_grid_is_its_settings_one_by_one() -> None:
    features, labels = problem(counts=(80, 60, 70))
    held_out = [(features[0][:20], labels[0][:20])]
    rates, decays, subsets = (0.0, 0.5, 0.9), (0.001, 0.1), ((0, 1), (2, 0), (1,))
    fits = solve_probes(features, labels, CLASSES, rates, decays, subsets, held_out=held_out, tolerance=1e-10)
    asked = [(tuple(sorted(s)), r, d) for s in subsets for r in rates for d in decays]
    assert [(fit.domains, fit.rate, fit.weight_decay) for fit in fits] == asked
    for (domains, rate, decay), fit in zip(asked, fits, strict=True):
        alone = only(features, labels, CLASSES, [rate], [decay], [domains], tolerance=1e-10)
        torch.testing.assert_close(fit.weight, alone.weight, rtol=0, atol=1e-4)
        assert fit.loss == pytest.approx(alone.loss, abs=1e-6)
        right = F.linear(held_out[0][0], fit.weight, fit.bias).argmax(1) == held_out[0][1]
        assert fit.accuracies == (pytest.approx(float(right.double().mean())),)
        torch.testing.assert_close(fit.weight.sum(0), torch.zeros(UNITS, dtype=torch.float64))


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_alone() -> None:
    features, labels = problem()
    state = torch.get_rng_state()
    fits = [only(features, labels, CLASSES, [0.7], masks=4, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert not torch.equal(fits[0].weight, fits[2].weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_float16_features_are_fitted_in_float32() -> None:
    features, labels = problem()
    half = [x.half() for x in features]
    fit = only(half, labels, CLASSES, [0.5], [0.01])
    exact = only([x.double() for x in half], labels, CLASSES, [0.5], [0.01])
    assert fit.weight.dtype == torch.float32
    assert fit.converged
    assert fit.loss == pytest.approx(exact.loss, rel=1e-3)


def test_separable_images_stop_the_fit() -> None:
    features, labels = problem(noise=0.01)
    plain, decayed = solve_probes(features, labels, CLASSES, [0.0], [0.0, 0.01])
    assert plain.stopped == "separable"
    assert not plain.converged
    assert plain.loss < 0.014
    assert decayed.stopped == "converged"
    assert only(features, labels, CLASSES, [0.0], [0.01], limit=1).stopped == "limit"


def test_an_absent_class_is_never_predicted() -> None:
    features, labels = problem(counts=(120, 80, 60))
    present = labels[0] != 2
    features[0], labels[0] = features[0][present], labels[0][present]
    fits = solve_probes(features, labels, CLASSES, [0.5], [0.01], [(0,), (0, 1)])
    assert float(fits[0].weight[2].abs().max()) == 0
    assert float(fits[0].bias[2]) == -1e4
    assert not bool((F.linear(features[1], fits[0].weight, fits[0].bias).argmax(1) == 2).any())
    assert float(fits[1].weight[2].abs().max()) > 0
    renamed = torch.tensor([0, 1, -1, 2])[labels[0]]
    three = only([features[0]], [renamed], 3, [0.5], [0.01])
    torch.testing.assert_close(fits[0].weight[[0, 1, 3]], three.weight)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"rates": [1.0]}, r"dropout rate must be in \[0, 1\)"),
    ({"rates": [-0.1]}, r"dropout rate must be in \[0, 1\)"),
    ({"weight_decays": [-1.0]}, "weight decay must be a finite number of 0 or more, not -1.0"),
    ({"subsets": [()]}, "different numbers from 0 to 1"),
    ({"subsets": [(0, 2)]}, r"not \(0, 2\)"),
    ({"subsets": [(1, 1)]}, r"not \(1, 1\)"),
    ({"classes": 3}, "domain 0: labels must be whole numbers"),
    ({"classes": 41}, "takes 2 to 40 classes, not 41"),
    ({"masks": 3}, "must be even and 0 or more, not 3"),
    ({"samples": 5}, "come in pairs"),
    ({"tolerance": 0.0}, "tolerance must be above 0"),
    ({"labels": []}, "features of 2 domains and labels of 0"),
    ({"held_out": [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]}, "held-out set 0 has 3 units"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_settings_get_one_clear_line(change: dict[str, Any], message: str) -> None:
    features, labels = problem(counts=(20, 20))
    settings = {"features": features, "labels": labels, "classes": CLASSES, "rates": [0.5], **change}
    with pytest.raises(UserError, match=message):
        solve_probes(**settings)


def test_bad_features_get_one_clear_line() -> None:
    features, labels = problem(counts=(20, 20))
    features[1][3, 4] = float("nan")
    with pytest.raises(UserError, match=r"domain 1: the features have values that are not finite"):
        solve_probes(features, labels, CLASSES, [0.5])
    with pytest.raises(UserError, match=r"domain 0: features must be .* not \(20, 24\) and \(7,\)"):
        solve_probes(features, [labels[0][:7], labels[1]], CLASSES, [0.5])
    with pytest.raises(UserError, match=r"differ in width or type \(widths \[5, 24\]\)"):
        solve_probes([features[0], features[0][:, :5]], labels, CLASSES, [0.5])
    with pytest.raises(UserError, match="one class only"):
        solve_probes(features[:1], [torch.zeros(20, dtype=torch.int64)], CLASSES, [0.5])
