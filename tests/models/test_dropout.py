"""Dropout on the representation: its statistics, and the rates that there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers import SIGMAS, close_to_rate, refusal
from torch import Tensor, nn

from largedrop.models.dropout import RepresentationDropout, check_rate, set_dropout

RATES = (0.1, 0.5, 0.9, 0.95)


def dropped(rate: float, seed: int = 0, shape: tuple[int, int] = (400, 500)) -> Tensor:
    torch.manual_seed(seed)
    return RepresentationDropout(rate)(torch.ones(shape))


@pytest.mark.parametrize("rate", RATES)
def test_share_of_zeros_is_the_rate(rate: float) -> None:
    zeros = dropped(rate) == 0
    assert close_to_rate(zeros, rate)
    assert not close_to_rate(zeros, rate - 0.01)


@pytest.mark.parametrize("rate", RATES)
def test_units_that_are_kept_are_divided_by_the_share_kept(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64, dtype=torch.float64)
    y = RepresentationDropout(rate)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - rate), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rate", RATES)
def test_examples_and_calls_have_masks_of_their_own_unless_the_seed_is_the_same(rate: float) -> None:
    first, other, again = dropped(rate), dropped(rate, seed=1), dropped(rate)
    assert torch.equal(first, again)
    assert len({tuple(row.tolist()) for row in first}) == len(first)
    both = (first == 0) & (other == 0)
    assert close_to_rate(both, rate * rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("axis", [0, 1], ids=["examples", "units"])
def test_neighbouring_units_and_examples_are_independent(rate: float, axis: int) -> None:
    zeros = dropped(rate).eq(0).double() - rate
    left = zeros.narrow(axis, 0, zeros.shape[axis] - 1)
    right = zeros.narrow(axis, 1, zeros.shape[axis] - 1)
    variance = rate * (1 - rate)
    assert abs(float((left * right).mean())) < SIGMAS * variance / math.sqrt(left.numel())


def test_identity_in_evaluation_mode_and_at_rate_0() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(RepresentationDropout(0.9).eval()(x), x)
    assert torch.equal(RepresentationDropout(0.0)(x), x)


def test_gradient_flows_through_kept_units_alone() -> None:
    x = torch.ones(20, 30, requires_grad=True)
    y = RepresentationDropout(0.75)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(y != 0, 4.0, 0.0))


def test_repr_says_the_rate() -> None:
    assert repr(RepresentationDropout(0.9)) == "RepresentationDropout(rate=0.9)"


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1.0, "the dropout rate must be in [0, 1), not 1.0: at 1 every unit is zero"),
        (-0.1, "the dropout rate must be in [0, 1), not -0.1: at 1 every unit is zero"),
        (math.nan, "the dropout rate must be in [0, 1), not nan: at 1 every unit is zero"),
        ("x", "the dropout rate must be a number in [0, 1), not 'x'"),
        (None, "the dropout rate must be a number in [0, 1), not None"),
    ],
)
@pytest.mark.parametrize("use", [check_rate, RepresentationDropout, lambda rate: set_dropout(nn.Linear(2, 2), rate)])
def test_other_rates_are_refused(use: Callable[[Any], object], rate: Any, text: str) -> None:
    assert refusal(use, rate) == text


@pytest.mark.parametrize("rate", [0, 0.999, "0.5"])
def test_check_rate_returns_a_float(rate: Any) -> None:
    assert check_rate(rate) == float(rate)
    assert type(check_rate(rate)) is float
