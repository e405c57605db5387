"""L2-SP against its formula, differentiated by autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.helpers import Tiny, batch, gradients
from torch import nn
from torch.nn import functional as F

from largedrop.training.objectives.l2sp import L2SP


def moved(net: Tiny) -> dict[str, torch.Tensor]:
    """The weights of ``net``, which then are others."""
    start = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64))
    return start


def bound(net: nn.Module, weight: float) -> L2SP:
    objective = L2SP(weight)
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    return objective


def test_the_formula() -> None:
    images, labels = batch()
    net = Tiny()
    objective = bound(net, 0.3)
    start = moved(net)
    twin = copy.deepcopy(net)
    result = objective.backward(net.both, images, labels, 3, 0)
    loss = F.cross_entropy(twin.both(images)[1], labels)
    pull = sum(((p - start[name]) ** 2).sum() / 2 for name, p in twin.named_parameters() if "body" in name)
    (loss + 0.3 * pull).backward()
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.penalty, torch.as_tensor(pull).detach())
    for name, wanted in gradients(twin).items():
        torch.testing.assert_close(gradients(net)[name], wanted, rtol=1e-12, atol=1e-14)


def test_a_weight_of_zero_is_cross_entropy_to_the_bit() -> None:
    images, labels = batch()
    net, plain = Tiny(), Tiny()
    result = bound(net, 0.0).backward(net.both, images, labels, 3, 0)
    F.cross_entropy(plain.both(images)[1], labels).backward()
    assert float(result.penalty) == 0
    assert all(torch.equal(found, gradients(plain)[name]) for name, found in gradients(net).items())


def test_frozen_parameters_are_left_alone() -> None:
    images, labels = batch()
    net = Tiny()
    net.body.weight.requires_grad_(False)
    bound(net, 1.0).backward(net.both, images, labels, 3, 0)
    assert set(gradients(net)) == {"body.bias", "head.weight", "head.bias"}


def test_a_parameter_without_a_gradient_is_pulled() -> None:
    images, labels = batch()
    net = Tiny()
    net.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    objective = bound(net, 0.5)
    with torch.no_grad():
        net.get_parameter("unused").add_(2.0)
    objective.backward(net.both, images, labels, 3, 0)
    torch.testing.assert_close(gradients(net)["unused"], torch.ones(2, dtype=torch.float64))


def test_it_has_to_be_bound() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        L2SP().backward(Tiny().both, *batch(), 3, 0)
