"""Averages along the training of any module, against loops in float64, and gone on with to the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.helpers import refusal
from torch import Tensor, nn

from largedrop.training.along import KINDS, TrajectoryAverage

LOSSES = [1.0, 0.5, 0.6, 0.7, 5.0]


def network(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


def step(module: nn.Module, number: int) -> None:
    """A step that is a function of its number, as an optimiser would make it, and a batch that batch norm sees."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    dtype = next(module.parameters()).dtype
    module(torch.randn(8, 3, generator=generator).to(dtype))


def train(module: nn.Module, average: TrajectoryAverage, first: int = 0, last: int = 10) -> list[dict[str, Tensor]]:
    """Steps, with an evaluation after every second one; returns the weights after each step."""
    seen = []
    for number in range(first, last):
        step(module, number)
        average.after_step()
        seen.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        if number % 2:
            average.evaluated(LOSSES[number // 2])
    return seen


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("exponential", [0.8 ** (9 - number) for number in range(10)]),
        ("uniform", [number % 2 for number in range(10)]),
        ("swad", [0, 0, *[1] * 8]),  # from the evaluation of the smallest loss on; one loss above the level is no end
        ("last", [*[0] * 9, 1]),
    ],
)
def test_each_kind_is_that_of_a_loop_and_goes_part_of_the_way_back(kind: str, weights: list[float]) -> None:
    module = network()
    start = copy.deepcopy(module.state_dict())
    average = TrajectoryAverage(module, kind, decay=0.8, way_back=0.25)
    seen = train(module, average)
    found = average.result()
    for name in ("0.weight", "2.bias", "1.running_mean"):
        total = torch.stack([share * state[name].double() for share, state in zip(weights, seen, strict=True)]).sum(0)
        mean = total / sum(weights)
        torch.testing.assert_close(found[name].double(), 0.25 * start[name].double() + 0.75 * mean, rtol=0, atol=1e-6)
    assert int(found["1.num_batches_tracked"]) == 10
    assert torch.equal(module.state_dict()["0.weight"], seen[-1]["0.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_state_gives_the_same_bits(kind: str) -> None:
    module = network()
    average = TrajectoryAverage(module, kind, way_back=0.2)
    train(module, average)
    broken = network()
    before = TrajectoryAverage(broken, kind, way_back=0.2)
    train(broken, before, last=5)
    header, tensors = copy.deepcopy(before.state())
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    later = network()
    later.load_state_dict(broken.state_dict())
    again = TrajectoryAverage(later, kind, way_back=0.2)
    again.load(header, tensors)
    train(later, again, first=5)
    assert all(torch.equal(tensor, again.result()[name]) for name, tensor in average.result().items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors.items())  # what was loaded stays


def test_statistics_of_batch_norm_are_estimated_anew_or_it_is_said() -> None:
    batches = [torch.randn(16, 3) + 1 for _ in range(3)]
    module, told = network(), network()
    for each in (module, told):
        average = TrajectoryAverage(each)
        train(each, average)
        if each is told:
            with pytest.warns(UserWarning, match=r"^1 batch norms learned their statistics in training"):
                average.hand_over()
        else:
            assert average.hand_over(batches) is each
    assert torch.equal(module[0].weight, told[0].weight)
    inside = torch.cat([module[0](batch) for batch in batches])
    torch.testing.assert_close(module[1].running_mean, inside.mean(0))
    assert not torch.allclose(told[1].running_mean, inside.mean(0))


def test_frozen_batch_norms_need_no_inputs_and_stay() -> None:
    module = network()
    module[1].eval()
    start = module[1].running_mean.clone()
    average = TrajectoryAverage(module, way_back=0.2)
    train(module, average)
    average.hand_over()
    assert torch.equal(module[1].running_mean, start)
    assert int(module[1].num_batches_tracked) == 0


def test_half_precision_is_averaged_in_float32() -> None:
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = TrajectoryAverage(module, "exponential", decay=0.999)
    values = [1.0 + (number % 2) / 128 for number in range(3000)]  # steps of one bit, that a sum in bfloat16 would lose
    for value in values:
        module.weight.data.fill_(value)
        average.after_step()
    found = average.state()[1]["average.weight"]
    assert found.dtype == torch.float32
    assert abs(float(found) - (1 + 0.5 / 128)) < 1e-4
    assert average.result()["weight"].dtype == torch.bfloat16


def test_tensors_that_are_replaced_are_followed() -> None:
    module = nn.Linear(2, 2)
    average = TrajectoryAverage(module, "exponential", decay=0.5)
    for value in (1.0, 2.0):
        module.weight = nn.Parameter(torch.full((2, 2), value))
        average.after_step()
    torch.testing.assert_close(average.result()["weight"], torch.full((2, 2), (0.5 * 1 + 2) / 1.5))


def test_a_module_that_gets_another_layer_is_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    average = TrajectoryAverage(module)
    average.after_step()
    module.append(nn.Linear(2, 2))
    assert refusal(average.after_step) == "these weights are of different networks: only one has '1.bias'"


class Extra(nn.Module):
    """Has a state that is no tensor."""

    def get_extra_state(self) -> dict[str, Any]:
        return {}


def test_settings_out_of_range() -> None:
    module = network()
    assert refusal(TrajectoryAverage, module, "expontial").startswith(
        "unknown kind of average 'expontial'; did you mean 'exponential'?"
    )
    assert refusal(TrajectoryAverage, module, decay=1.0) == "decay must be a number in (0, 1), not 1.0"
    assert refusal(TrajectoryAverage, module, way_back="0.2") == "way_back must be a number in [0, 1], not '0.2'"
    assert refusal(TrajectoryAverage, module.parameters()) == (
        "the weights of a torch.nn.Module are averaged, not those of a generator"
    )
    assert refusal(TrajectoryAverage, Extra()) == "'_extra_state' is a dict, not a tensor, so it cannot be averaged"


def test_what_cannot_be_averaged_or_gone_on_with() -> None:
    module = network()
    average = TrajectoryAverage(module, "swad")
    assert refusal(average.result) == "there was no step to average the weights of"
    step(module, 0)
    average.after_step()
    assert refusal(average.result) == "'swad' is over evaluations, and there was none"
    assert refusal(average.evaluated) == "swad needs a finite loss on held-out images at each evaluation, not None"
    average.evaluated(torch.tensor(1.0))
    average.evaluated(2.0)  # after the same step: no other evaluation
    header, tensors = average.state()
    assert header["average"]["pending"] == [[1, 1.0]]
    other = TrajectoryAverage(module, "swad", way_back=0.1)
    assert refusal(other.load, header, tensors) == (
        "the average was begun with ['swad', 0.99, 0.0], and cannot go on with ['swad', 0.99, 0.1]"
    )
    assert refusal(TrajectoryAverage(nn.Linear(2, 2), "swad").load, header, tensors).startswith(
        "these weights are of different networks: only one has '1.running_mean'"
    )
    assert refusal(average.load, {}, {}) == "this is no state of an average along a trajectory (KeyError('settings'))"
    module[0].weight.data.fill_(float("nan"))
    average.after_step()
    assert "contains NaN" in refusal(average.evaluated, 1.0)
    last = TrajectoryAverage(module[2], "last")
    last.after_step()
    last.hand_over()
    for act in (last.after_step, last.evaluated, last.hand_over):
        assert refusal(act) == "the average has been handed over: begin a new one for further training"
    assert refusal(TrajectoryAverage(module[2], "last").load, *last.state()).startswith(
        "this checkpoint is of after the end of training"
    )
