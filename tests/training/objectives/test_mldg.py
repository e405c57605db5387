"""MLDG against a loop that takes the inner step on a copy, and on a network whose batch norm is folded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
from tests.helpers import Tiny, batch, gradients
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.folding import fold_batchnorm
from largedrop.models.sizes import representation_units
from largedrop.training.objectives.mldg import MLDG


def by_hand(
    net: nn.Module,
    outputs: Callable[[Any, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    order: list[int],
    rates: dict[str, float],
    beta: float,
) -> tuple[dict[str, Tensor], float, float]:
    """Gradients, mean inner and mean outer loss."""
    domains = len(order)
    parts = list(zip(images.chunk(domains), labels.chunk(domains), strict=True))
    total = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
    inner, outer = 0.0, 0.0
    for place, one in enumerate(order):
        other = order[(place + 1) % domains]
        twin = copy.deepcopy(net)
        names, parameters = zip(*twin.named_parameters(), strict=True)
        loss = F.cross_entropy(outputs(twin, parts[one][0]), parts[one][1])
        found = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for name, parameter, gradient in zip(names, parameters, found, strict=True):
                total[name] += gradient / domains
                parameter -= rates[name] * gradient
        after = F.cross_entropy(outputs(twin, parts[other][0]), parts[other][1])
        for name, gradient in zip(names, torch.autograd.grad(after, parameters), strict=True):
            total[name] += beta * gradient / domains
        inner, outer = inner + float(loss.detach()) / domains, outer + float(after.detach()) / domains
    return total, inner, outer


@pytest.mark.parametrize("domains", [2, 3, 4])
@pytest.mark.parametrize("inner_lr", [None, 0.7])
def test_the_loop(domains: int, inner_lr: float | None) -> None:
    images, labels = batch(domains)
    net = Tiny()
    groups = [{"params": net.body.parameters(), "lr": 0.3}, {"params": net.head.parameters(), "lr": 3.0}]
    optimizer = torch.optim.SGD(groups)
    objective = MLDG(0.5, inner_lr=inner_lr)
    objective.bind(net, optimizer)
    if inner_lr is None:
        rates = {name: 0.2 if "body" in name else 2.0 for name, _ in net.named_parameters()}
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.2, torch.tensor(2.0)  # a schedule's work
    else:
        rates = dict.fromkeys(dict(net.named_parameters()), inner_lr)
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    order = torch.randperm(domains).tolist()
    torch.manual_seed(5)
    result = objective.backward(net.both, images, labels, domains, 0)
    assert net.calls == [6] * (2 * domains)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    wanted, inner, outer = by_hand(Tiny(), lambda twin, x: twin.both(x)[1], images, labels, order, rates, 0.5)
    for name, found in gradients(net).items():
        torch.testing.assert_close(found, wanted[name], rtol=1e-10, atol=1e-12)
    assert float(result.loss) == pytest.approx(inner)
    assert float(result.penalty) == pytest.approx(outer)


def test_the_circle_is_drawn_anew_from_torchs_generator() -> None:
    images, labels = batch(4)
    found = []
    for seed in (0, *range(8)):
        net = Tiny()
        objective = MLDG(inner_lr=1.0)
        objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
        torch.manual_seed(seed)
        objective.backward(net.both, images, labels, 4, 0)
        found.append(gradients(net)["body.weight"])
    assert torch.equal(found[0], found[1])
    assert sum(not torch.allclose(found[0], other) for other in found) >= 3


def test_a_weight_of_zero_leaves_the_passes_at_the_stepped_weights_out() -> None:
    images, labels = batch()
    net = Tiny()
    objective = MLDG(0.0)
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    objective.backward(net.both, images, labels, 3, 0)
    assert net.calls == [6, 6, 6]


class Folded(nn.Module):
    """A convolutional network with frozen batch norm, as the loop has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = timm.create_model("test_efficientnet", num_classes=0)
        self.head = nn.Linear(representation_units(self.backbone), 3)
        self.double().eval()

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        representation = self.backbone(images)
        return representation, self.head(representation)


def test_a_folded_network() -> None:
    torch.manual_seed(2)
    images, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    net = Folded()
    plain, state = copy.deepcopy(net), copy.deepcopy(net.state_dict())
    assert len(fold_batchnorm(net.backbone, images)) == 13
    objective = MLDG(2.0, inner_lr=0.1)
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    torch.manual_seed(5)
    order = torch.randperm(3).tolist()
    torch.manual_seed(5)
    objective.backward(net.both, images, labels, 3, 0)
    rates = dict.fromkeys(dict(plain.named_parameters()), 0.1)
    wanted, *_ = by_hand(plain, lambda twin, x: twin.both(x)[1], images, labels, order, rates, 2.0)
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    found = gradients(net)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9)


def test_autocast_sees_the_weights_of_the_moment() -> None:
    """Autocast keeps half-precision copies of the weights for as long as its outermost block lasts."""
    images, labels = batch()
    found = []
    for whole in (False, True):
        net = Tiny().float()
        objective = MLDG(inner_lr=5.0)
        objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))

        def forward(x: Tensor, net: Tiny = net) -> tuple[Tensor, Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                return net.both(x)

        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16) if whole else nullcontext():
            objective.backward(forward, images.float(), labels, 3, 0)
        found.append(gradients(net)["body.weight"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_weights_are_put_back_when_a_forward_pass_fails() -> None:
    images, labels = batch()
    net = Tiny()
    before = copy.deepcopy(net.state_dict())

    def failing(x: Tensor) -> tuple[Tensor, Tensor]:
        if len(net.calls) == 1:
            assert not torch.equal(net.body.weight, before["body.weight"])
            raise MemoryError
        return net.both(x)

    objective = MLDG(inner_lr=1e3)  # taking the step back would leave rounding errors
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    with pytest.raises(MemoryError):
        objective.backward(failing, images, labels, 3, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_frozen_parameters_are_left_alone() -> None:
    images, labels = batch()
    net = Tiny()
    net.body.requires_grad_(False)
    objective = MLDG(inner_lr=1.0)
    objective.bind(net, torch.optim.SGD(net.head.parameters(), 0.1))
    objective.backward(net.both, images, labels, 3, 0)
    assert set(gradients(net)) == {"head.weight", "head.bias"}


def test_it_has_to_be_bound() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        MLDG().backward(Tiny().both, *batch(), 3, 0)
