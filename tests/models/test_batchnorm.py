"""Batch norm's statistics, against torch's own way to estimate them anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.helpers import refusal
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from largedrop.models.batchnorm import update_batchnorm


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5)
    )


def batches(count: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(6, 3, 8, 8) + shift for shift in range(count)]


def test_statistics_are_those_of_torch_and_the_rest_is_as_it_was() -> None:
    ours, theirs = network().train(), network().train()
    momentum = ours[1].momentum = theirs[1].momentum = 0.3
    update_bn(batches(), theirs)
    assert update_batchnorm(ours, batches()) == ("1", "5")
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=0)
    assert (ours[1].momentum, ours.training, ours[1].training) == (momentum, True, True)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_frozen_layers_stay() -> None:
    start = network().state_dict()
    by_mode = network().train()
    by_mode[1].eval()
    assert update_batchnorm(by_mode, batches()) == ("5",)
    by_start = network()
    by_start[5].running_mean += 1  # as training did
    by_start.eval()
    assert update_batchnorm(by_start, batches(), start) == ("5",)
    for each in (by_mode, by_start):
        assert torch.equal(each[1].running_mean, start["1.running_mean"])
        assert int(each[5].num_batches_tracked) == 3
    assert torch.equal(by_mode[5].running_var, by_start[5].running_var)
    assert not any(each.training for each in by_start)
    frozen = network().eval()
    assert update_batchnorm(frozen, batches(), start) == ()
    assert update_batchnorm(nn.Linear(2, 2).eval(), []) == ()


def test_dropout_is_not_in_what_is_measured() -> None:
    plain: Any = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train()
    dropped: Any = nn.Sequential(nn.Dropout(0.9), *copy.deepcopy(plain)).train()
    for each in (plain, dropped):
        update_batchnorm(each, [torch.ones(4, 8), -torch.ones(4, 8)])
    assert torch.equal(plain[1].running_mean, dropped[2].running_mean)
    assert dropped[0].training


class Named(nn.Module):
    """As transformers' networks, which take their inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: Any = network()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        return self.inner(pixel_values)


def test_forms_of_inputs() -> None:
    wanted = network().train()
    update_batchnorm(wanted, batches())
    labels = torch.zeros(6)
    pairs, named = network().train(), Named().train()
    update_batchnorm(pairs, [(images, labels) for images in batches()])
    update_batchnorm(named, [{"pixel_values": images, "labels": labels} for images in batches()])
    for each in (pairs, named.inner):
        assert torch.equal(each[5].running_var, wanted[5].running_var)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "there are no inputs to estimate the statistics of batch norm from"),
        (
            [torch.zeros(1, 3, 8, 8)],
            "a batch has a single value for a channel of a batch norm: it takes several images",
        ),
        (["a.jpg"], "an input is a tensor, a pair or a dictionary of tensors, not a str"),
    ],
)
def test_inputs_that_are_none(inputs: list[Any], text: str) -> None:
    net = network().train()
    update_batchnorm(net, batches())
    before = copy.deepcopy(net.state_dict())
    assert refusal(update_batchnorm, net, [*batches()[:1], *inputs] if inputs else []) == text
    assert all(layer.training for layer in net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_one_tensor_is_no_batches() -> None:
    said = refusal(update_batchnorm, nn.BatchNorm2d(3).train(), torch.zeros(4, 3, 2, 2))
    assert said == "inputs are batches of images: [images], not the tensor alone, whose parts are no batches"


def test_what_does_not_tell_which_layers_are_frozen() -> None:
    net = network().eval()
    assert refusal(update_batchnorm, net, batches()).startswith(
        "the network is in evaluation mode, which does not tell the batch norms that were frozen in training: "
    )
    assert refusal(update_batchnorm, net, batches(), {}) == "start is of another network: it has no '1.running_mean'"


@pytest.mark.parametrize("module", ["resnet18", {}, None, nn.ReLU])
def test_what_is_no_network(module: Any) -> None:
    assert refusal(update_batchnorm, module, batches()) == f"the network must be a torch.nn.Module, not {module!r}"
