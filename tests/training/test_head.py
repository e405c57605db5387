"""The head's fit: the optimum of an independent solver, whatever the features' scale, and nothing else disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.errors import UserError
from largedrop.training import head
from largedrop.training.head import HeadFit, fit_head

CLASSES, UNITS = 4, 32
Domains = tuple[list[Tensor], list[Tensor]]


def problem(counts: tuple[int, ...] = (150, 60), noise: float = 1.6, seed: int = 0) -> Domains:
    """Overlapping Gaussian classes, shifted by domain: no head gets all of them right."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, UNITS, generator=generator) * 0.8
    features, labels = [], []
    for count in counts:
        target = torch.arange(count) % CLASSES
        shift = torch.randn(UNITS, generator=generator) * 0.3
        features.append((means[target] + shift + noise * torch.randn(count, UNITS, generator=generator)).relu())
        labels.append(target)
    return features, labels


def minimise(objective: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The minimum of a convex objective of weight and bias, by L-BFGS in float64."""
    weight = torch.zeros(CLASSES, UNITS, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        loss = objective(weight, bias)
        loss.backward()
        return float(loss.detach())

    solver.step(closure)
    for part in (weight, bias):
        assert part.grad is not None
        assert float(part.grad.abs().max()) < 1e-6
    return weight.detach(), bias.detach()


def mean_loss(domains: Domains, weight: Tensor, bias: Tensor) -> Tensor:
    """Every domain weighs the same."""
    pairs = zip(*domains, strict=True)
    return torch.stack([F.cross_entropy(F.linear(x.double(), weight, bias), y) for x, y in pairs]).mean()


def masked(domains: Domains, dropout: float, copies: int, seed: int) -> Domains:
    """``copies`` of every image, each under a dropout mask of its own."""
    generator = torch.Generator().manual_seed(seed)
    features = [
        x.double().repeat(copies, 1)
        * (torch.rand(len(x) * copies, UNITS, generator=generator) >= dropout)
        / (1 - dropout)
        for x in domains[0]
    ]
    return features, [y.repeat(copies) for y in domains[1]]


def accuracy(domains: Domains, fit: HeadFit) -> float:
    x, y = torch.cat(domains[0]), torch.cat(domains[1])
    return float((F.linear(x, fit.last.weight, fit.last.bias).argmax(1) == y).float().mean())


@pytest.mark.parametrize("decay", [0.03, 0.003])
def test_without_dropout_it_is_the_optimum_of_lbfgs(decay: float) -> None:
    domains = problem()

    def objective(weight: Tensor, bias: Tensor) -> Tensor:
        return mean_loss(domains, weight, bias) + decay / 2 * (weight.square().sum() + bias.square().sum())

    fit = fit_head(*domains, CLASSES, 0.0, decay, 0)
    best = float(objective(*minimise(objective)))
    found = float(objective(fit.last.weight.double(), fit.last.bias.double()))
    start = math.log(CLASSES)
    assert best <= found < best * 1.02
    assert best < 0.75 * start
    assert fit.converged


@pytest.mark.parametrize(("dropout", "share"), [(0.5, 0.03), (0.9, 0.03)])
def test_under_dropout_it_is_the_optimum_over_many_masks(dropout: float, share: float) -> None:
    domains, decay = problem((60, 60)), 1e-3
    seen, unseen = masked(domains, dropout, 200, 1), masked(domains, dropout, 200, 2)
    weight, bias = minimise(
        lambda weight, bias: mean_loss(seen, weight, bias) + decay / 2 * (weight.square().sum() + bias.square().sum())
    )
    fit = fit_head(*domains, CLASSES, dropout, decay, 0)
    best = float(mean_loss(unseen, weight, bias))
    found = float(mean_loss(unseen, fit.last.weight.double(), fit.last.bias.double()))
    start = math.log(CLASSES)
    assert abs(found / best - 1) < share
    assert best < 0.95 * start
    assert fit.converged


def test_the_loss_of_a_round_is_that_under_dropout() -> None:
    domains = problem()
    for dropout in (0.0, 0.9):
        last = fit_head(*domains, CLASSES, dropout, 1e-3, 0, rounds=3).last
        expected = float(mean_loss(masked(domains, dropout, 50, 3), last.weight.double(), last.bias.double()))
        assert last.loss == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("scale", [100.0, 0.01])
@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_the_scale_of_the_features_does_not_matter(dropout: float, scale: float) -> None:
    domains = problem()
    scaled = [x * scale for x in domains[0]], domains[1]
    one, other = (fit_head(*both, CLASSES, dropout, 0.0, 0) for both in (domains, scaled))
    assert accuracy(scaled, other) == pytest.approx(accuracy(domains, one), abs=0.03)
    assert other.last.loss == pytest.approx(one.last.loss, rel=0.03)
    assert accuracy(domains, one) > 0.6


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    domains = problem()
    torch.manual_seed(1)
    one = fit_head(*domains, CLASSES, 0.9, 1e-4, 0)
    torch.manual_seed(2)
    again, other = (fit_head(*domains, CLASSES, 0.9, 1e-4, seed) for seed in (0, 1))
    assert len(one.rounds) == len(again.rounds)
    for here, there in zip(one.rounds, again.rounds, strict=True):
        assert (here.steps, here.loss) == (there.steps, there.loss)
        assert torch.equal(here.weight, there.weight)
        assert torch.equal(here.bias, there.bias)
    assert not torch.equal(one.last.weight, other.last.weight)


def test_the_global_generator_and_the_threads_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []

    def seed(*purpose: object) -> int:
        inside.append(torch.get_num_threads())
        return 0

    monkeypatch.setattr(head, "torch_seed", seed)
    torch.set_num_threads(2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit_head(*problem(), CLASSES, 0.5, 1e-4, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    assert set(inside) == {1}


def test_rounds_are_counted_in_steps_and_stop_when_nothing_is_gained() -> None:
    fit = fit_head(*problem(), CLASSES, 0.9, 1e-4, 0)
    assert [entry.steps for entry in fit.rounds] == [100 * (number + 1) for number in range(len(fit.rounds))]
    assert fit.converged
    assert fit.last is fit.rounds[-1]
    assert head.HALVINGS <= len(fit.rounds) < 40
    short = fit_head(*problem(), CLASSES, 0.9, 1e-4, 0, rounds=2)
    assert not short.converged
    assert [entry.steps for entry in short.rounds] == [100, 200]
    assert torch.equal(short.last.weight, fit.rounds[1].weight)


def test_the_weights_are_averaged_over_a_round() -> None:
    after: list[Tensor] = []
    for steps in (1, 2, 3):
        fit = fit_head(*problem(), CLASSES, 0.0, 0.0, 0, rounds=1, round_steps=steps)
        after.append(fit.last.weight * steps)
    # Adam's first step moves every weight by the learning rate.
    scale = float(torch.cat(problem()[0]).square().mean().sqrt())
    torch.testing.assert_close(after[0].abs(), torch.full((CLASSES, UNITS), 5e-3 / scale), rtol=1e-3, atol=0)
    assert float((after[1] - after[0]).norm()) > 1.5 * float(after[0].norm())
    assert float((after[2] - after[1]).norm()) > 1.2 * float((after[1] - after[0]).norm())


def test_what_is_learned_ends_the_fit_early() -> None:
    x = torch.eye(CLASSES).repeat(10, 1) * 50
    fit = fit_head([x], [torch.arange(CLASSES).repeat(10)], CLASSES, 0.0, 0.0, 0)
    assert fit.converged
    assert fit.last.loss < 0.01 * math.log(CLASSES)
    assert all(entry.loss >= 0.01 * math.log(CLASSES) for entry in fit.rounds[:-1])


def test_domains_weigh_the_same_whatever_their_size() -> None:
    """Two domains with opposite labels: the small one pulls as hard, so the head learns nothing."""
    x = torch.eye(2)
    features = [x.repeat(100, 1), x]
    labels = [torch.tensor([0, 1]).repeat(100), torch.tensor([1, 0])]
    fit = fit_head(features, labels, 2, 0.0, 0.0, 0)
    assert fit.last.loss == pytest.approx(math.log(2), rel=0.01)
    assert float(fit.last.weight.abs().max()) < 0.3


@pytest.mark.parametrize("counts", [(1,), (1, 1), (2, 300), (1, 40, 3)])
def test_tiny_domains(counts: tuple[int, ...]) -> None:
    domains = problem(counts)
    fit = fit_head(*domains, CLASSES, 0.5, 1e-4, 0)
    assert math.isfinite(fit.last.loss)
    assert fit.last.weight.shape == (CLASSES, UNITS)
    assert fit.last.bias.shape == (CLASSES,)


def test_a_domain_of_one_class() -> None:
    features, labels = problem((40, 60))
    labels[0] = torch.zeros(40, dtype=torch.int64)
    fit = fit_head(features, labels, CLASSES, 0.9, 1e-4, 0)
    (found,) = (F.linear(features[0], fit.last.weight, fit.last.bias).argmax(1),)
    assert float((found == 0).float().mean()) > 0.7


def test_features_of_nothing_but_zeros() -> None:
    fit = fit_head([torch.zeros(8, UNITS)], [torch.arange(8) % CLASSES], CLASSES, 0.9, 1e-4, 0)
    assert fit.converged
    assert fit.last.loss == pytest.approx(math.log(CLASSES), rel=1e-3)
    assert torch.equal(fit.last.weight, torch.zeros(CLASSES, UNITS))


@pytest.mark.parametrize("rate", [1.0, -0.1, math.nan])
def test_rates_out_of_range(rate: float) -> None:
    with pytest.raises(UserError, match=r"^the dropout rate must be in \[0, 1\), not "):
        fit_head(*problem((4,)), CLASSES, rate, 0.0, 0)


def test_weights_of_images_are_in_gradient_and_loss() -> None:
    features, labels = problem()
    ones = [torch.ones(len(part)) for part in features]
    plain, same = (fit_head(features, labels, CLASSES, 0.5, 1e-4, 0, rounds=2, weights=each) for each in (None, ones))
    assert [each.loss for each in same.rounds] == pytest.approx([each.loss for each in plain.rounds], rel=1e-6)
    assert torch.equal(same.last.weight, plain.last.weight)
    # Ten images of one class and one of another, at the same place: weighed alike, both are guessed alike.
    x, y = torch.ones(11, 2), torch.tensor([0] * 10 + [1])
    balanced = torch.tensor([0.55] * 10 + [5.5])
    for weights, share in ((None, 10 / 11), ([balanced], 0.5)):
        fit = fit_head([x], [y], 2, 0.0, 0.0, 0, weights=weights)
        logits = fit.last.weight.sum(1) + fit.last.bias
        assert float(logits.softmax(0)[0]) == pytest.approx(share, abs=0.02)
