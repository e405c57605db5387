"""Mixout against its formula with the same masks, and its expectation over many of them."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import timm
import torch
from tests.helpers import Tiny, batch, gradients
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.folding import fold_batchnorm
from largedrop.models.sizes import representation_units
from largedrop.training.objectives.mixout import Mixout


def bound(net: nn.Module, weight: float = 0.8) -> Mixout:
    objective = Mixout(weight)
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    return objective


def moved(net: nn.Module) -> dict[str, Tensor]:
    """The weights of ``net``, which then are others."""
    start = copy.deepcopy(net.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return start


class Seen:
    """Forward passes of a network, with its weights at each."""

    def __init__(self, net: Tiny) -> None:
        self.net, self.states = net, list[dict[str, Tensor]]()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.states.append(copy.deepcopy(self.net.state_dict()))
        return self.net.both(images)


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_the_formula(share: float) -> None:
    images, labels = batch()
    net = Tiny()
    objective = bound(net, share)
    start = moved(net)["body.weight"]
    before, forward = copy.deepcopy(net.state_dict()), Seen(net)
    torch.manual_seed(7)
    result = objective.backward(forward, images, labels, 3, 0)
    (mixed,) = forward.states
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [name for name, tensor in mixed.items() if not torch.equal(tensor, before[name])] == ["body.weight"]
    # The masks, seen in the weights that are as at the start; a whole number of 1/65536 is reset.
    exact = round(share * 65536) / 65536
    reset = (mixed["body.weight"] == start).double()
    assert 0 < reset.sum() < 20
    wanted = (reset * start + (1 - reset) * before["body.weight"] - exact * start) / (1 - exact)
    torch.testing.assert_close(mixed["body.weight"], wanted, rtol=1e-12, atol=1e-14)
    twin = Tiny()
    twin.load_state_dict(mixed)
    loss = F.cross_entropy(twin.both(images)[1], labels)
    loss.backward()
    torch.testing.assert_close(result.loss, loss.detach())
    factors = {"body.weight": (1 - reset) / (1 - exact)}
    for name, found in gradients(net).items():
        torch.testing.assert_close(found, factors.get(name, 1) * gradients(twin)[name], rtol=1e-10, atol=1e-14)


def test_the_expectation_is_the_weights_themselves_and_each_weight_is_reset_as_often() -> None:
    images, labels = batch()
    net = Tiny()
    objective = bound(net, 0.8)
    start = moved(net)["body.weight"]
    now, forward, n = net.body.weight.detach().clone(), Seen(net), 4000
    torch.manual_seed(0)
    for _ in range(n):
        objective.backward(forward, images[:3], labels[:3], 3, 0)
    mixed = torch.stack([state["body.weight"] for state in forward.states])
    reset = (mixed == start).double().mean(0)
    torch.testing.assert_close(reset, torch.full_like(reset, 0.8), rtol=0, atol=4.5 * (0.8 * 0.2 / n) ** 0.5)
    # Each mean has a standard error of |w − w⁰| √(p / (1 − p) / n).
    errors = (mixed.mean(0) - now) / ((now - start).abs() * (0.8 / 0.2 / n) ** 0.5)
    assert float(errors.abs().max()) < 4.5
    pairs = torch.corrcoef((mixed == start).double().flatten(1).T)
    assert float((pairs - torch.eye(20, dtype=torch.float64)).abs().max()) < 5.5 / n**0.5


class Convolutions(nn.Module):
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


def test_a_folded_network_resets_whole_filters() -> None:
    torch.manual_seed(2)
    images, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    net = Convolutions().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = copy.deepcopy(net)
    assert len(fold_batchnorm(net.backbone, images)) == 13
    objective = bound(net, 0.5)
    start, states = moved(net), list[dict[str, Tensor]]()
    before = copy.deepcopy(net.state_dict())

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        states.append(copy.deepcopy(net.state_dict()))
        found: tuple[Tensor, Tensor] = net.both(x)
        return found

    result = objective.backward(forward, images, labels, 3, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    (mixed,) = states
    factors, filters, reset = {}, 0, 0
    for name, module in plain.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        key = f"{name}.weight"
        whole = (mixed[key] == start[key]).flatten(1)
        assert torch.equal(whole.all(1), whole.any(1))
        factors[key] = 2 * (~whole.all(1)).double().view(-1, 1, 1, 1)
        wanted = start[key] + factors[key] * (before[key] - start[key])
        torch.testing.assert_close(mixed[key], wanted, rtol=1e-12, atol=1e-14)
        filters, reset = filters + len(whole), reset + int(whole.all(1).sum())
    assert abs(reset / filters - 0.5) < 4 * 0.5 / filters**0.5
    assert all(torch.equal(mixed[key], before[key]) for key in before if key not in factors)
    plain.load_state_dict(mixed)
    loss = F.cross_entropy(plain.both(images)[1], labels)
    loss.backward()
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-7, atol=1e-9)
    for name, found in gradients(net).items():
        torch.testing.assert_close(found, factors.get(name, 1) * gradients(plain)[name], rtol=1e-7, atol=1e-9)


def test_masks_come_from_torchs_generator() -> None:
    images, labels = batch()
    found = []
    for seed in (0, 0, 1):
        net = Tiny()
        objective = bound(net, 0.5)
        moved(net)
        torch.manual_seed(seed)
        objective.backward(net.both, images, labels, 3, 0)
        found.append(gradients(net)["body.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_share_of_zero_is_cross_entropy_to_the_bit() -> None:
    images, labels = batch()
    net = Tiny()
    objective = bound(net, 0.0)
    moved(net)
    plain = copy.deepcopy(net)
    objective.backward(net.both, images, labels, 3, 0)
    F.cross_entropy(plain.both(images)[1], labels).backward()
    assert all(torch.equal(found, gradients(plain)[name]) for name, found in gradients(net).items())


def test_gradients_that_there_are_are_not_masked() -> None:
    images, labels = batch()
    net = Tiny()
    objective = bound(net, 0.5)
    moved(net)
    found = []
    for earlier in (0.0, 1.0):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, earlier)
        torch.manual_seed(0)
        objective.backward(net.both, images, labels, 3, 0)
        found.append(gradients(net))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient + 1)


def test_autocast_sees_the_weights_of_the_moment() -> None:
    """Autocast keeps half-precision copies of the weights for as long as its outermost block lasts."""
    images, labels = batch()
    found = []
    for whole in (False, True):
        net = Tiny().float()
        objective = bound(net, 0.5)
        moved(net)

        def forward(x: Tensor, net: Tiny = net) -> tuple[Tensor, Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                return net.both(x)

        with torch.autocast("cpu", torch.bfloat16) if whole else nullcontext():
            forward(images.float())  # w in half precision
            torch.manual_seed(0)
            objective.backward(forward, images.float(), labels, 3, 0)
            after = forward(images.float())[1].detach()
        found.append((gradients(net)["head.weight"], after))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_weights_are_put_back_when_a_forward_pass_fails() -> None:
    net = Tiny()
    objective = bound(net, 0.5)
    moved(net)
    before = copy.deepcopy(net.state_dict())

    def failing(x: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.equal(net.body.weight, before["body.weight"])
        raise MemoryError

    with pytest.raises(MemoryError):
        objective.backward(failing, *batch(), 3, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_frozen_parameters_are_left_alone() -> None:
    images, labels = batch()
    net = Tiny()
    net.body.requires_grad_(False)
    bound(net, 0.5).backward(net.both, images, labels, 3, 0)
    assert set(gradients(net)) == {"head.weight", "head.bias"}


def test_it_has_to_be_bound() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        Mixout().backward(Tiny().both, *batch(), 3, 0)
