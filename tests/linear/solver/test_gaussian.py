"""Cross-entropy expected under Gaussian logits: against every mask there is, sampling and automatic gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.linear.solver.expected import gaussian_loss, masked_loss
from torch import Tensor
from torch.nn import functional as F

from largedrop.errors import UserError
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


def test_gaussian_logits_are_right_for_many_units_at_a_large_rate() -> None:
    features, labels, weight, bias = problem(60, 1000, scale=0.02)
    truth = float(masked_loss(features, labels, weight, bias, 0.9, 600).mean())
    gaussian = float(gaussian_loss(features, labels, weight, bias, 0.9, 600).mean())
    plain = float(F.cross_entropy(F.linear(features, weight, bias), labels))
    assert truth - plain > 0.1
    assert gaussian == pytest.approx(truth, rel=0.01)


def test_gaussian_logits_are_not_safe_for_few_units_at_a_large_rate() -> None:
    arguments = problem(200, 8)
    truth = float(enumerated(*arguments, 0.9).mean())
    gaussian = float(gaussian_loss(*arguments, 0.9, 600).mean())
    assert abs(gaussian / truth - 1) > 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_compiled_expectation_is_the_automatic_one(dtype: torch.dtype, scale: float) -> None:
    features, labels, weight, bias = problem(50, 10, scale=scale)
    basis, ratio, samples = contrasts(CLASSES), 0.8 / (1 - 0.8), 16
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
    with pytest.raises(UserError, match="come in pairs"):
        antithetic_normals(4, 3, 7, 0)
    with pytest.raises(UserError, match="two classes or more"):
        contrasts(1)
