"""Dropout's expectation by Gaussian logits, against every mask there is, sampled masks and automatic gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.linear.solver.expected import gaussian_loss, masked_loss
from torch import Tensor
from torch.nn import functional as F

from largedrop.data.random import torch_seed
from largedrop.linear.solver.gaussian import contrasts
from largedrop.linear.solver.passes import SAMPLES, Passes, ProbeObjective

CLASSES = 4
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(examples: int, units: int, seed: int = 0, scale: float = 0.3) -> Problem:
    """Features, labels, weights and bias, in float64."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, units, generator=draw, dtype=torch.float64).relu() + 0.1
    labels = torch.randint(CLASSES, (examples,), generator=draw)
    weight = scale * torch.randn(CLASSES, units, generator=draw, dtype=torch.float64)
    bias = torch.randn(CLASSES, generator=draw, dtype=torch.float64)
    return features, labels, weight, bias


def enumerated(problem: Problem, rate: float) -> float:
    """The expected cross-entropy over every mask there is."""
    features, labels, weight, bias = problem
    total = 0.0
    for bits in itertools.product((0, 1), repeat=features.shape[1]):
        chance = (1 - rate) ** sum(bits) * rate ** (len(bits) - sum(bits))
        outputs = F.linear(features * torch.tensor(bits) / (1 - rate), weight, bias)
        total += chance * float(F.cross_entropy(outputs, labels))
    return total


def test_gaussian_logits_are_right_for_many_units_at_a_large_rate() -> None:
    features, labels, weight, bias = problem(60, 1000, scale=0.02)
    truth = float(masked_loss(features, labels, weight, bias, 0.9, 600).mean())
    gaussian = float(gaussian_loss(features, labels, weight, bias, 0.9, 600).mean())
    plain = float(F.cross_entropy(F.linear(features, weight, bias), labels))
    assert truth - plain > 0.1
    assert gaussian == pytest.approx(truth, rel=0.01)


def test_they_are_right_for_little_noise_and_not_safe_for_few_units_at_a_large_rate() -> None:
    little = problem(200, 12, scale=0.1)
    plain = float(F.cross_entropy(F.linear(little[0], *little[2:]), little[1]))
    effect = enumerated(little, 0.05) - plain
    assert float(gaussian_loss(*little, 0.05, 2000).mean()) - plain == pytest.approx(effect, rel=0.03)
    few = problem(200, 8)
    assert abs(float(gaussian_loss(*few, 0.9, 600).mean()) / enumerated(few, 0.9) - 1) > 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_values_and_gradients_are_the_automatic_ones(dtype: torch.dtype, scale: float) -> None:
    """Of settings side by side: rates, weight decays, training domains and weights of the images."""
    parts = [problem(50, 10, seed=seed, scale=scale) for seed in (0, 1)]
    domains = {number: (x.to(dtype), y) for number, (x, y, *_) in enumerate(parts)}
    basis = contrasts(CLASSES)
    inverse = torch.eye(11, dtype=dtype)
    settings = [
        ProbeObjective(0.0, 0.1, (0, 1), inverse),
        ProbeObjective(0.8, 0.0, (0, 1), inverse),
        ProbeObjective(0.8, 0.2, (1,), inverse),
        ProbeObjective(0.8, 0.2, (0, 1), inverse, {1: torch.linspace(0.2, 1.8, 50, dtype=dtype)}),
    ]
    points = [
        torch.cat([basis @ w, (basis @ b)[:, None]], 1) for _, _, w, b in (parts[0], parts[1], parts[0], parts[1])
    ]
    answers = Passes(domains, CLASSES, 3).evaluate(settings, [point.to(dtype) for point in points])
    for setting, point, (value, slope) in zip(settings, points, answers, strict=True):
        point = point.requires_grad_()
        whole = basis.T @ point
        wanted = 0.5 * setting.decay * point[:, :-1].square().sum()
        for domain in setting.domains:
            head = (whole[:, :-1], whole[:, -1])
            seed = torch_seed("probe", 3, domain)
            losses = gaussian_loss(*parts[domain][:2], *head, setting.rate, SAMPLES, seed)
            wanted = wanted + (losses * setting.weights.get(domain, 1)).mean() / len(setting.domains)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-7
        assert value == pytest.approx(float(wanted.detach()), rel=tolerance)
        (expected,) = torch.autograd.grad(wanted, point)
        scale = float(expected.abs().max())
        torch.testing.assert_close(slope.double(), expected, rtol=tolerance, atol=tolerance * scale)


def test_contrasts_keep_what_softmax_sees() -> None:
    basis = contrasts(5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64))
    logits = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close((logits @ basis.T @ basis).softmax(1), logits.softmax(1))
