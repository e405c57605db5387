"""Tests of largedrop.schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest

from largedrop.config import Config, make_config


def config(**settings: Any) -> Config:
    return make_config(data="PACS", fingerprint="f00d", test_domain="sketch", **settings)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(6, 2, (2, 4, 6)), (7, 2, (2, 4, 6, 7)), (5, 10, (5,)), (5, 5, (5,)), (1, 1, (1,)), (3, 1, (1, 2, 3))],
)
def test_evaluations_end_with_the_last_step(steps: int, every: int, expected: tuple[int, ...]) -> None:
    assert config(steps=steps, eval_every=every).evaluations == expected


def test_the_papers_evaluations() -> None:
    steps = make_config("paper", data="PACS", fingerprint="f00d", test_domain="sketch").evaluations
    assert (len(steps), steps[0], steps[-2:]) == (34, 300, (9_900, 10_000))


@pytest.mark.parametrize(
    ("steps", "share", "milestone"),
    [(300, 0.5, 150), (7, 0.5, 4), (1, 0.5, 1), (10, 1, 10), (10, 0.01, 1), (100, 0.07, 7), (100, 0.55, 55)],
)
def test_the_milestone_is_the_first_step_of_the_lower_rate(steps: int, share: float, milestone: int) -> None:
    chosen = config(steps=steps, decay_at=share)
    assert chosen.milestones == (milestone, steps)
    assert (chosen.lr_factor(0), chosen.lr_factor(milestone - 1)) == (1.0, 1.0)
    assert chosen.lr_factor(milestone) == pytest.approx(0.01 if milestone == steps else 0.1)


def test_the_learning_rate_rises_and_then_follows_its_schedule() -> None:
    rising = config(steps=10, warmup=0.3)
    assert rising.warmup_steps == 3
    factors = [1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert [rising.lr_factor(step) for step in range(10)] == pytest.approx(factors)
    root = math.sqrt(0.5) / 2
    cosine = config(steps=4, schedule="cosine")
    assert [cosine.lr_factor(step) for step in range(5)] == pytest.approx([1, 0.5 + root, 0.5, 0.5 - root, 0])
    both = config(steps=6, schedule="cosine", warmup=0.2)  # 1.2 steps are 2
    assert [both.lr_factor(step) for step in range(6)] == pytest.approx(
        [0.5, 1, *(cosine.lr_factor(s) for s in range(4))]
    )
    assert [config(steps=1, schedule="cosine", warmup=0.9).lr_factor(step) for step in (0, 1)] == [1, 1]
    assert config(steps=100, warmup=0.07).warmup_steps == 7
