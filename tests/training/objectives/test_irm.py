"""IRMv1's penalty against autograd through a multiplier, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from tests.helpers import Tiny, batch, gradients
from torch import Tensor
from torch.nn import functional as F

from largedrop.training.objectives.irm import IRM, irm_penalty


def by_multiplier(logits: Tensor, labels: Tensor) -> Tensor:
    """The definition: the gradient of each half's loss by a multiplier of 1, differentiable once more."""
    scale = torch.ones((), dtype=logits.dtype, requires_grad=True)
    products = []
    for outputs, targets in zip(logits, labels, strict=True):
        slopes = [
            torch.autograd.grad(F.cross_entropy(scale * outputs[half::2], targets[half::2]), scale, create_graph=True)[
                0
            ]
            for half in (0, 1)
        ]
        products.append(slopes[0] * slopes[1])
    return torch.stack(products).mean()


@pytest.mark.parametrize("size", [2, 5, 8])
def test_the_penalty_and_its_gradient_by_the_logits(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, size, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (3, size))
    found, wanted = irm_penalty(logits, labels), by_multiplier(logits, labels)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    one, other = (torch.autograd.grad(penalty, logits)[0] for penalty in (found, wanted))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_it_is_unbiased_where_a_square_is_not() -> None:
    """Labels drawn from the softmax: the true slope is 0, and so is the mean of the products."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 20_000, 4, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(logits[0].softmax(1), 1, generator=generator).view(-1, 2)
    pairs = logits.view(-1, 2, 4)
    products = torch.stack([irm_penalty(pairs[k : k + 1], labels[k : k + 1]) for k in range(2000)])
    assert abs(float(products.mean())) < 4 * float(products.std()) / 2000**0.5
    assert bool((products < 0).any())


def test_gradients_of_the_network_against_finite_differences() -> None:
    images, labels = batch()
    net = Tiny()
    IRM(5.0, 0).backward(net.both, images, labels, 3, 0)

    def objective() -> float:
        with torch.no_grad():
            logits = net.both(images)[1]
        with torch.enable_grad():
            penalty = by_multiplier(logits.view(3, 6, 3), labels.view(3, 6))
        return float(F.cross_entropy(logits, labels) + 5.0 * penalty.detach())

    step = 1e-6
    for name, parameter in net.named_parameters():
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            value = float(flat[index])
            sides = []
            for side in (value + step, value - step):
                flat[index] = side
                sides.append(objective())
            flat[index] = value
            wanted = (sides[0] - sides[1]) / (2 * step)
            assert float(gradients(net)[name].view(-1)[index]) == pytest.approx(wanted, rel=1e-5, abs=1e-8)
