"""Several masks at once: each is ordinary dropout, and their mean has the expectation of one and far less noise."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from tests.helpers import refusal
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from largedrop.models.dropout import RepresentationDropout, set_dropout
from largedrop.models.masks import draw_masks, several_masks

CPU = torch.device("cpu")
SIGMAS = 5


def kept(count: int, units: int, rate: float, masks: int, seed: int = 0) -> Tensor:
    """Whether each unit is kept, bool (masks, count, units)."""
    torch.manual_seed(seed)
    return draw_masks(torch.Size((count, units)), rate, masks, CPU)[0] != 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("masks", [2, 10, 16])
def test_every_mask_alone_is_dropout_at_the_rate(rate: float, masks: int) -> None:
    found = kept(300, 200, rate, masks)
    spread = SIGMAS * math.sqrt(rate * (1 - rate) / found[0].numel())
    assert (found.double().mean((1, 2)) - (1 - rate)).abs().max() < spread + 1e-4
    centred = found.double() - (1 - rate)
    for axis in (1, 2):  # neighbouring units, and neighbouring images, are independent
        left, right = centred.narrow(axis, 0, centred.shape[axis] - 1), centred.narrow(axis, 1, centred.shape[axis] - 1)
        assert (left * right).mean((1, 2)).abs().max() < SIGMAS * rate * (1 - rate) / math.sqrt(left[0].numel())


@pytest.mark.parametrize(
    ("rate", "masks", "counts"), [(0.9, 16, {1, 2}), (0.75, 8, {2}), (0.5, 16, {8}), (0.9, 4, {0, 1})]
)
def test_every_unit_is_kept_equally_often(rate: float, masks: int, counts: set[int]) -> None:
    assert set(kept(50, 64, rate, masks).sum(0).flatten().tolist()) == counts


def test_at_0_9_each_unit_is_in_one_of_ten_masks_but_for_the_rounding_of_the_rate() -> None:
    times = kept(400, 1280, 0.9, 10).sum(0)
    assert float((times == 1).double().mean()) > 0.999


def test_the_values_are_those_of_the_representation_over_the_share_kept() -> None:
    torch.manual_seed(1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(6, 40).to(dtype)
        torch.manual_seed(2)
        found = several_masks(x, 0.75, 8)
        torch.manual_seed(2)
        masks, factor = draw_masks(x.shape, 0.75, 8, CPU)
        assert factor == 4
        assert found.dtype == dtype
        assert torch.equal(found, torch.where(masks != 0, 4 * x, 0).flatten(0, 1))


def test_images_under_the_first_mask_come_first_and_a_draw_depends_on_the_seed_alone() -> None:
    x = torch.arange(1.0, 4.0)[:, None].expand(3, 500)
    torch.manual_seed(0)
    one = several_masks(x, 0.5, 4)
    torch.manual_seed(0)
    again = several_masks(x, 0.5, 4)
    assert torch.equal(one, again)
    assert (one.amax(1) / 2).tolist() == [1, 2, 3] * 4
    assert not torch.equal(one, several_masks(x, 0.5, 4))


def test_the_gradient_is_that_of_the_masks_written_out() -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (5,))
    torch.manual_seed(7)
    loss = F.cross_entropy(F.linear(several_masks(x, 0.75, 8), weight), labels.repeat(8))
    found = torch.autograd.grad(loss, [x, weight])
    torch.manual_seed(7)
    masks = (draw_masks(x.shape, 0.75, 8, CPU)[0] != 0).double()
    losses = [F.cross_entropy(F.linear(4 * mask * x, weight), labels) for mask in masks]
    wanted = torch.stack(losses).mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    for mine, theirs in zip(found, torch.autograd.grad(wanted, [x, weight]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-14)


UNITS, CLASSES, RATE = 6, 3, 0.75


def every_mask() -> tuple[Tensor, Tensor]:
    """Loss and gradient in float64, exactly: over all 2⁶ masks of one image with their probabilities."""
    x, weight, label = problem()
    loss, gradient = torch.zeros((), dtype=torch.float64), torch.zeros(UNITS, dtype=torch.float64)
    for bits in product((0.0, 1.0), repeat=UNITS):
        mask = torch.tensor(bits, dtype=torch.float64)
        share = RATE ** float(UNITS - mask.sum()) * (1 - RATE) ** float(mask.sum())
        own = x.clone().requires_grad_()
        one = F.cross_entropy(F.linear(mask * own / (1 - RATE), weight)[None], label)
        loss += share * one.detach()
        gradient += share * torch.autograd.grad(one, own)[0]
    return loss, gradient


def problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(UNITS, generator=generator, dtype=torch.float64) + 0.5
    return x, torch.randn(CLASSES, UNITS, generator=generator, dtype=torch.float64), torch.tensor([1])


def drawn(masks: int, trials: int = 20_000) -> tuple[Tensor, Tensor]:
    """Mean loss over the masks, (trials,), and its gradient, (trials, units), of independent trials."""
    x, weight, label = problem()
    own = x.repeat(trials, 1).requires_grad_()
    outputs = F.linear(RepresentationDropout(RATE, masks)(own), weight)
    losses = F.cross_entropy(outputs, label.repeat(len(outputs)), reduction="none").view(masks, trials).mean(0)
    return losses.detach(), torch.autograd.grad(losses.sum(), own)[0]


@pytest.mark.parametrize("masks", [1, 4, 16])
def test_expected_loss_and_gradient_are_those_of_all_masks_by_brute_force(masks: int) -> None:
    torch.manual_seed(5)
    losses, gradients = drawn(masks)
    wanted_loss, wanted_gradient = every_mask()
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - wanted_loss) < SIGMAS * error
    assert ((gradients.mean(0) - wanted_gradient).abs() < SIGMAS * gradients.std(0) / math.sqrt(len(losses))).all()


def test_the_variance_falls_at_least_as_one_over_the_number_of_masks() -> None:
    torch.manual_seed(6)
    variances = {masks: tuple(float(each.var(0).sum()) for each in drawn(masks)) for masks in (1, 4, 8, 16)}
    for masks in (4, 8, 16):
        for one, several in zip(variances[1], variances[masks], strict=True):
            assert several < one / masks * 1.05


def test_nothing_is_left_of_noise_that_is_linear_in_the_masks_where_units_are_kept_equally_often() -> None:
    x = torch.rand(50, 30, dtype=torch.float64)
    for seed in range(5):
        torch.manual_seed(seed)
        torch.testing.assert_close(several_masks(x, 0.75, 8).view(8, 50, 30).mean(0), x, rtol=1e-12, atol=0)


def test_a_layer_has_masks_in_training_only_and_none_at_rate_0() -> None:
    x = torch.ones(3, 8)
    layer = RepresentationDropout(0.5, masks=4)
    assert layer(x).shape == (12, 8)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(RepresentationDropout(0.0, masks=4)(x), x)
    assert repr(layer) == "RepresentationDropout(rate=0.5, masks=4)"


def test_set_dropout_gives_any_network_several_masks() -> None:
    torch.manual_seed(0)
    net = set_dropout(nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 3)), 0.9, masks=16)
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    outputs = net(images)
    assert outputs.shape == (80, 3)
    F.cross_entropy(outputs, labels.repeat(16)).backward()
    assert net.eval()(images).shape == (5, 3)
    set_dropout(net.train(), 0.9)
    assert net(images).shape == (5, 3)


def test_autocast_and_a_second_derivative() -> None:
    x = torch.randn(4, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = F.linear(several_masks(x, 0.5, 2), torch.ones(3, 32))
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert x.grad is not None
    assert set(x.grad.flatten().tolist()) == {6.0}  # each unit in one of two masks, times 2, read by three
    (first,) = torch.autograd.grad(several_masks(x, 0.5, 2).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class Look(TorchDispatchMode):
    """Names of the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_or_made_on_the_host_so_that_a_step_can_be_recorded() -> None:
    x = torch.randn(4, 32, requires_grad=True)
    several_masks(x, 0.9, 12)  # a recorded step is called before it is recorded
    with Look() as look:
        several_masks(x, 0.9, 12).sum().backward()
    assert "aten.random_.from" in look.names
    forbidden = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select")
    assert [name for name in look.names if any(part in name for part in forbidden)] == []


@pytest.mark.parametrize("masks", [0, 1025, 10**6, True, 2.0])
def test_a_wrong_number_of_masks(masks: Any) -> None:
    told = f"the number of dropout masks must be a whole number from 1 to 1024, not {masks!r}"
    assert refusal(set_dropout, nn.Linear(2, 2), 0.9, masks=masks) == told
