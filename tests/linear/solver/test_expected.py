"""Dropout's expectation: the exact and the approximate forms against brute-force sampling and automatic gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.errors import UserError
from largedrop.linear.solver.expected import (
    Moments,
    fit_squared,
    gaussian_loss,
    masked_loss,
    noise_ratio,
    quadratic_loss,
    squared_loss,
)
from largedrop.linear.solver.gaussian import antithetic_normals, contrasts, expected_logits

CLASSES = 4


def problem(examples: int, units: int, seed: int = 0, scale: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, labels, weights and bias, in float64."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, units, generator=draw, dtype=torch.float64).relu() + 0.1
    labels = torch.randint(CLASSES, (examples,), generator=draw)
    weight = scale * torch.randn(CLASSES, units, generator=draw, dtype=torch.float64)
    bias = torch.randn(CLASSES, generator=draw, dtype=torch.float64)
    return features, labels, weight, bias


def enumerated(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rate: float) -> Tensor:
    """The expected cross-entropy over every mask there is, (n,)."""
    units = features.shape[1]
    total = torch.zeros(len(features), dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=units):
        mask = torch.tensor(bits, dtype=torch.float64)
        chance = (1 - rate) ** sum(bits) * rate ** (units - sum(bits))
        logits = F.linear(features * mask / (1 - rate), weight, bias)
        total += chance * F.cross_entropy(logits, labels, reduction="none")
    return total


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9])
def test_squared_loss_is_the_mean_over_every_mask(rate: float) -> None:
    features, labels, weight, bias = problem(5, 7)
    targets = F.one_hot(labels, CLASSES).double()
    expected = torch.zeros(5, dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=7):
        mask = torch.tensor(bits, dtype=torch.float64)
        chance = (1 - rate) ** sum(bits) * rate ** (7 - sum(bits))
        outputs = F.linear(features * mask / (1 - rate), weight, bias)
        expected += chance * 0.5 * (targets - outputs).square().sum(1)
    torch.testing.assert_close(squared_loss(features, targets, weight, bias, rate), expected)


def test_the_squared_fit_has_no_gradient() -> None:
    features, labels, _, _ = problem(60, 9)
    targets = F.one_hot(labels, CLASSES).double()
    weights, biases = fit_squared(Moments.of(features, targets), (0.0, 0.5, 0.95), (0.0, 0.1))
    assert weights.shape == (3, 2, CLASSES, 9)
    assert biases.shape == (3, 2, CLASSES)
    for (place, rate), (column, decay) in itertools.product(enumerate((0.0, 0.5, 0.95)), enumerate((0.0, 0.1))):
        weight = weights[place, column].clone().requires_grad_()
        bias = biases[place, column].clone().requires_grad_()
        loss = squared_loss(features, targets, weight, bias, rate).mean() + 0.5 * decay * weight.square().sum()
        for slope in torch.autograd.grad(loss, (weight, bias)):
            assert float(slope.abs().max()) < 1e-12


def test_the_squared_fit_is_ridge_regression_on_every_mask() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels, _, _ = problem(12, 6)
    targets = F.one_hot(labels, CLASSES).double()
    rate, decay = 0.7, 0.05
    masks = np.array(list(itertools.product((0, 1), repeat=6)), dtype=float)
    chances = (1 - rate) ** masks.sum(1) * rate ** (6 - masks.sum(1))
    augmented = (features.numpy()[None] * masks[:, None] / (1 - rate)).reshape(-1, 6)
    # Ridge adds up weighted squares where the fit halves their mean, so its penalty is n times the decay.
    ridge = linear_model.Ridge(alpha=12 * decay, solver="cholesky").fit(
        augmented, np.tile(targets.numpy(), (len(masks), 1)), sample_weight=np.repeat(chances, 12)
    )
    weights, biases = fit_squared(Moments.of(features, targets), [rate], [decay])
    np.testing.assert_allclose(weights[0, 0].numpy(), ridge.coef_, atol=1e-10)
    np.testing.assert_allclose(biases[0, 0].numpy(), ridge.intercept_, atol=1e-10)


def test_moments_of_domains_are_added_and_taken_away() -> None:
    parts = [problem(size, 5, seed=size) for size in (20, 30, 40)]
    moments = [Moments.of(x, F.one_hot(y, CLASSES).double(), 1 / len(x)) for x, y, _, _ in parts]
    left_out = moments[0] + moments[1] + moments[2] - moments[1]
    for mine, theirs in zip(
        fit_squared(left_out, [0.5], [0.01]), fit_squared(moments[0] + moments[2], [0.5], [0.01]), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    assert float((moments[0] + moments[2]).count) == pytest.approx(2)


def test_units_that_are_always_zero_and_too_many_units() -> None:
    features, labels, _, _ = problem(8, 12)
    features[:, 3] = 0
    moments = Moments.of(features, F.one_hot(labels, CLASSES).double())
    weights, _ = fit_squared(moments, [0.5], [0.0])
    assert float(weights[..., 3].abs().max()) == 0
    with pytest.raises(UserError, match="no single best head"):
        fit_squared(moments, [0.0], [0.0])


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_masks_come_to_the_mean_over_every_mask(rate: float) -> None:
    arguments = problem(40, 8)
    truth = enumerated(*arguments, rate)
    sampled = masked_loss(*arguments, rate, 4000)
    assert float((sampled - truth).abs().max()) < 0.2
    assert float(sampled.mean()) == pytest.approx(float(truth.mean()), abs=0.03)
    torch.testing.assert_close(masked_loss(*arguments, rate, 3, seed=1), masked_loss(*arguments, rate, 3, seed=1))
    assert not torch.equal(masked_loss(*arguments, rate, 3, seed=1), masked_loss(*arguments, rate, 3, seed=2))


def test_gaussian_logits_are_right_for_many_units_at_a_large_rate() -> None:
    features, labels, weight, bias = problem(60, 1000, scale=0.02)
    truth = float(masked_loss(features, labels, weight, bias, 0.9, 600).mean())
    gaussian = float(gaussian_loss(features, labels, weight, bias, 0.9, 600).mean())
    quadratic = float(quadratic_loss(features, labels, weight, bias, 0.9).mean())
    plain = float(F.cross_entropy(F.linear(features, weight, bias), labels))
    assert truth - plain > 0.1
    assert gaussian == pytest.approx(truth, rel=0.01)
    assert abs(quadratic - truth) > 3 * abs(gaussian - truth)


def test_no_approximation_is_safe_for_few_units_at_a_large_rate() -> None:
    arguments = problem(200, 8)
    truth = float(enumerated(*arguments, 0.9).mean())
    gaussian = float(gaussian_loss(*arguments, 0.9, 600).mean())
    quadratic = float(quadratic_loss(*arguments, 0.9).mean())
    assert abs(gaussian / truth - 1) > 0.05
    assert abs(quadratic / truth - 1) > 0.05


def test_both_approximations_are_right_for_little_noise() -> None:
    arguments = problem(200, 12, scale=0.1)
    truth = enumerated(*arguments, 0.05)
    plain = F.cross_entropy(F.linear(arguments[0], *arguments[2:]), arguments[1])
    effect = float(truth.mean() - plain)
    assert float(quadratic_loss(*arguments, 0.05).mean() - plain) == pytest.approx(effect, rel=0.03)
    assert float(gaussian_loss(*arguments, 0.05, 2000).mean() - plain) == pytest.approx(effect, rel=0.03)


def test_the_quadratic_penalty_is_the_trace_of_hessian_and_covariance() -> None:
    features, labels, weight, bias = problem(6, 5)
    found = quadratic_loss(features, labels, weight, bias, 0.8)
    for row, (x, label) in enumerate(zip(features, labels, strict=True)):
        p = (weight @ x + bias).softmax(0)
        hessian = torch.diag(p) - torch.outer(p, p)
        covariance = noise_ratio(0.8) * weight @ torch.diag(x.square()) @ weight.T
        expected = F.cross_entropy(weight @ x + bias, label) + 0.5 * torch.trace(hessian @ covariance)
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("loss", [gaussian_loss, quadratic_loss])
def test_gradients_are_those_of_finite_differences(loss: type) -> None:
    features, labels, weight, bias = problem(7, 5)
    assert torch.autograd.gradcheck(
        lambda v, b: loss(features, labels, v, b, 0.7), (weight.requires_grad_(), bias.requires_grad_())
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_compiled_expectation_is_the_automatic_one(dtype: torch.dtype, scale: float) -> None:
    features, labels, weight, bias = problem(50, 10, scale=scale)
    basis, ratio, samples = contrasts(CLASSES), noise_ratio(0.8), 16
    rows, columns = torch.tril_indices(CLASSES - 1, CLASSES - 1)
    reduced = basis @ weight
    mean = (reduced @ features.T + (basis @ bias)[:, None]).requires_grad_()
    covariance = (ratio * (reduced[rows] * reduced[columns]) @ features.square().T).requires_grad_()
    normals = antithetic_normals(50, CLASSES - 1, samples, 3)
    lower = torch.zeros(50, CLASSES - 1, CLASSES - 1, dtype=torch.float64)
    lower[:, rows, columns] = covariance.T
    lower[:, columns, rows] = covariance.T
    factor = torch.linalg.cholesky(lower + 1e-9 * torch.eye(CLASSES - 1))
    noise = factor @ normals.double()
    logits = torch.cat([mean.T[:, :, None] + noise, mean.T[:, :, None] - noise], 2)
    logits = torch.einsum("kc,nks->nsc", basis, logits)
    loss = (logits.logsumexp(2) - logits.gather(2, labels[:, None, None].expand(-1, samples, 1))[..., 0]).mean(1)
    expected = [loss, *torch.autograd.grad(loss.sum(), (mean, covariance))]
    found = expected_logits(
        mean.detach().to(dtype), covariance.detach().to(dtype), labels, normals.to(dtype), basis.to(dtype)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs.detach(), rtol=2e-3, atol=2e-4)
    by_formula = gaussian_loss(features, labels, weight, bias, 0.8, samples, seed=3)
    torch.testing.assert_close(found[0].double(), by_formula, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-5)


def test_contrasts_keep_what_softmax_sees() -> None:
    basis = contrasts(5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64))
    logits = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close((logits @ basis.T @ basis).softmax(1), logits.softmax(1))


def test_bad_input_gets_one_clear_line() -> None:
    features, labels, weight, bias = problem(4, 3)
    targets = F.one_hot(labels, CLASSES).double()
    with pytest.raises(UserError, match=r"dropout rate must be in \[0, 1\)"):
        quadratic_loss(features, labels, weight, bias, 1.0)
    with pytest.raises(UserError, match="weight decay must be a finite number of 0 or more, not -1"):
        fit_squared(Moments.of(features, targets), [0.5], [-1])
    with pytest.raises(UserError, match="one dropout mask or more, not 0"):
        masked_loss(features, labels, weight, bias, 0.5, 0)
    with pytest.raises(UserError, match="come in pairs"):
        gaussian_loss(features, labels, weight, bias, 0.5, 7)
    with pytest.raises(UserError, match="not finite"):
        Moments.of(features * float("nan"), targets)
    with pytest.raises(UserError, match=r"\(4, 3\) and \(3,\)"):
        quadratic_loss(features, labels[:3], weight, bias, 0.5)
    with pytest.raises(UserError, match="weight of an example must be above 0"):
        Moments.of(features, targets, 0)
    with pytest.raises(UserError, match="two classes or more"):
        contrasts(1)
