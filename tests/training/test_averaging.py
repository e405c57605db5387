"""Averages of weights, against a loop in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from largedrop.errors import UserError
from largedrop.training.averaging import WeightAverage, average_weights

State = dict[str, Tensor]


def states(count: int, dtype: torch.dtype = torch.float32) -> list[State]:
    torch.manual_seed(0)
    return [
        {"weight": torch.randn(4, 3, dtype=dtype), "bias": torch.randn(3, dtype=dtype), "batches": torch.tensor(7 * k)}
        for k in range(count)
    ]


def loop(checkpoints: list[State], name: str) -> Tensor:
    total = torch.zeros_like(checkpoints[0][name], dtype=torch.float64)
    for checkpoint in checkpoints:
        total += checkpoint[name].double()
    return total / len(checkpoints)


@pytest.mark.parametrize("count", [1, 2, 3, 34])
def test_the_mean_is_that_of_a_loop(count: int) -> None:
    checkpoints = states(count)
    mean = average_weights(checkpoints)
    assert list(mean) == ["weight", "bias", "batches"]
    for name in ("weight", "bias"):
        assert mean[name].dtype == torch.float32
        torch.testing.assert_close(mean[name].double(), loop(checkpoints, name), rtol=1e-6, atol=1e-6)
    assert mean["batches"].dtype == torch.int64
    assert mean["batches"].item() == 7 * (count - 1)


def test_float64_keeps_its_precision() -> None:
    checkpoints = states(11, torch.float64)
    torch.testing.assert_close(average_weights(checkpoints)["weight"], loop(checkpoints, "weight"), rtol=0, atol=1e-14)


def test_one_state_is_its_own_average_bit_for_bit_and_a_copy() -> None:
    (state,) = states(1)
    mean = average_weights([state])
    assert all(torch.equal(mean[name], state[name]) for name in state)
    mean["weight"].zero_()
    assert state["weight"].abs().sum() > 0


def test_a_running_average_taken_up_again_has_the_same_bits() -> None:
    checkpoints = states(5)
    first = WeightAverage()
    for state in checkpoints[:3]:
        first.add(state)
    resumed = WeightAverage(first.mean, first.count)
    for state in checkpoints[3:]:
        resumed.add(state)
    whole = average_weights(checkpoints)
    assert resumed.count == 5
    assert all(torch.equal(resumed.mean[name], whole[name]) for name in whole)
    assert first.mean["batches"].item() == 14


def test_no_gradient_is_kept() -> None:
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage()
    for _ in range(2):
        average.add(dict(layer.named_parameters()))
    assert not any(tensor.requires_grad for tensor in average.mean.values())


def test_nothing_to_average() -> None:
    with pytest.raises(UserError, match=r"^there are no weights to average$"):
        average_weights([])


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"weight": torch.zeros(4, 3)}, "only one has 'bias'"),
        ({"weight": torch.zeros(4, 3), "bias": torch.zeros(3), "more": torch.zeros(1)}, "only one has 'more'"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, "'weight' is (4, 3) and (3, 4)"),
        ({"weight": torch.zeros(4, 3), "bias": torch.zeros(1)}, "'bias' is (3,) and (1,)"),
    ],
)
def test_other_networks_are_refused_and_change_nothing(other: State, text: str) -> None:
    average = WeightAverage()
    average.add({"weight": torch.ones(4, 3), "bias": torch.ones(3)})
    with pytest.raises(UserError) as caught:
        average.add(other)
    assert str(caught.value) == f"these weights are of different networks: {text}"
    assert average.count == 1
    assert all(bool((tensor == 1).all()) for tensor in average.mean.values())
