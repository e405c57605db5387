"""Averages of weights, against a loop in float64."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tests.helpers import refusal
from torch import Tensor

from largedrop.errors import UserError
from largedrop.training.averaging import WeightAverage, average_weights, check_same, interpolate

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
    assert refusal(average.add, other) == f"these weights are of different networks: {text}"
    assert average.count == 1
    assert all(bool((tensor == 1).all()) for tensor in average.mean.values())


def test_weights_of_the_weights() -> None:
    checkpoints = states(4, torch.float64)
    mean = average_weights(checkpoints, [1, 0, 2, 5])
    for name in ("weight", "bias"):
        wanted = (checkpoints[0][name] + 2 * checkpoints[2][name] + 5 * checkpoints[3][name]) / 8
        torch.testing.assert_close(mean[name], wanted, rtol=0, atol=1e-14)
    assert mean["batches"].item() == 21
    late = average_weights(checkpoints, [0, 0, 1, 1])["weight"]
    torch.testing.assert_close(late, (checkpoints[2]["weight"] + checkpoints[3]["weight"]) / 2, rtol=0, atol=1e-14)


def test_equal_weights_are_those_of_the_running_average_to_the_bit() -> None:
    checkpoints = states(7)
    running = WeightAverage()
    for state in checkpoints:
        running.add(state)
    for mean in (average_weights(checkpoints), average_weights(checkpoints, [1.0] * 7)):
        assert all(torch.equal(mean[name], running.mean[name]) for name in mean)


def test_half_precision_is_averaged_in_float32() -> None:
    halves = [{"weight": torch.full((1,), value, dtype=torch.bfloat16)} for value in [1.0] + [1.0078125] * 99]
    mean = average_weights(halves)["weight"]
    assert mean.dtype == torch.bfloat16
    assert float(mean) == 1.0078125


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([1.0], "there are 2 sets of weights, but 1 numbers to weight them"),
        ([1.0, -1.0], "the weights of an average must be numbers of 0 or more, not -1.0"),
        (["1", "2"], "the weights of an average must be numbers of 0 or more, not 1"),
        ([1.0, float("inf")], "the weights of an average must be numbers of 0 or more, not inf"),
        ([0.0, 0.0], "at least one weight of an average must be above 0"),
    ],
)
def test_weights_that_make_no_sense(weights: list[Any], text: str) -> None:
    assert refusal(average_weights, states(2), weights) == text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    one, other = states(2)
    other["bias"][1] = bad
    for average in (lambda: average_weights([one, other]), lambda: interpolate(one, other, 0.5)):
        with pytest.raises(UserError, match="tensor 'bias' contains NaN or infinity"):
            average()


def test_other_origins() -> None:
    one, other = states(2)
    for average in (average_weights([one, other], origins=["a", "a"]), interpolate(one, other, 0.5, ["a", "a"])):
        assert set(average) == set(one)
    text = "fine-tuned from different ones (a and b)"
    for wrong in (lambda: average_weights([one, other], origins=["a", "b"]), lambda: interpolate(one, other, 0, "ab")):
        with pytest.raises(UserError, match=re.escape(text)):
            wrong()
    with pytest.raises(UserError, match="2 sets of weights, but 1 origins"):
        average_weights([one, other], origins=["a"])


def test_interpolation_ends_at_the_two_states_to_the_bit() -> None:
    one, other = states(2)
    one["half"], other["half"] = torch.randn(3).bfloat16(), torch.randn(3).bfloat16()
    one["weight"][0, 0], other["weight"][0, 0] = 1.0, -0.0  # 0 · 1 + 1 · −0 would be +0
    for alpha, wanted in ((1.0, one), (0.0, other)):
        found = interpolate(one, other, alpha)
        assert list(found) == list(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert torch.equal(found["weight"].signbit(), wanted["weight"].signbit())
        found["weight"].zero_()
        assert wanted["weight"].abs().sum() > 0


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_interpolation_between(alpha: float) -> None:
    pretrained, fine_tuned = states(2, torch.float64)
    found = interpolate(pretrained, fine_tuned, alpha)
    for name in ("weight", "bias"):
        wanted = alpha * pretrained[name] + (1 - alpha) * fine_tuned[name]
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-15)
    assert found["batches"].item() == 7
    assert fine_tuned["weight"].sum() != found["weight"].sum()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "0.5"])
def test_interpolation_outside(alpha: Any) -> None:
    one, other = states(2)
    with pytest.raises(UserError, match=r"alpha must be in \[0, 1\], not"):
        interpolate(one, other, alpha)


def test_interpolation_of_other_networks() -> None:
    one, other = states(2)
    with pytest.raises(UserError, match="only one has 'batches'"):
        interpolate(one, {"weight": other["weight"]}, 0.0)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"weight": torch.zeros(2, dtype=torch.float16)}, "differ in their type: 'weight' is float32 and float16"),
        ({"weight": torch.zeros(2, dtype=torch.int64)}, "differ in their type: 'weight' is float32 and int64"),
        ({"weight": torch.zeros(2, device="meta")}, "differ in their device: 'weight' is cpu and meta"),
    ],
)
def test_other_types_and_devices_are_refused(other: State, text: str) -> None:
    one = {"weight": torch.ones(2)}
    wanted = f"these weights {text}; bring them to one first"
    if not other["weight"].is_meta:  # which has no values that could be finite
        assert refusal(average_weights, [one, other]) == wanted
        assert refusal(interpolate, one, other, 0.5) == wanted
    assert refusal(check_same, one, other) == wanted


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (torch.nn.Linear(1, 1), "weights are given as a state dict, such as module.state_dict(), not as Linear"),
        (
            torch.nn.LazyLinear(1).state_dict(),
            "'weight' has no shape yet, so it cannot be averaged: run the module once first",
        ),
        ({"weight": [1.0]}, "'weight' is a list, not a tensor, so it cannot be averaged"),
    ],
)
def test_what_is_no_state_dict(state: Any, text: str) -> None:
    assert refusal(average_weights, [state]) == text
    assert refusal(interpolate, {"weight": torch.ones(1)}, state, 0.5) == text


def test_complex_weights_are_averaged_and_any_iterable_is_taken() -> None:
    states = [{"weight": torch.full((1,), value, dtype=torch.complex64)} for value in (1.0, 3.0j)]
    running = WeightAverage()
    for state in states:
        running.add(state)
    every: Any = iter(states)
    for found in (average_weights(every), running.mean, interpolate(states[0], states[1], 0.5)):
        torch.testing.assert_close(found["weight"], torch.tensor([0.5 + 1.5j], dtype=torch.complex64))


def test_a_running_average_of_half_precision_is_in_float32() -> None:
    average = WeightAverage()
    for value in [1.0] + [1.0078125] * 99:
        average.add({"weight": torch.full((1,), value, dtype=torch.bfloat16)})
    assert average.mean["weight"].dtype == torch.float32
    assert float(average.mean["weight"]) == pytest.approx(1.0077344, abs=1e-6)
