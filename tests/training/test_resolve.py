"""Defaults, and what is refused before training: sizes, batches and domains that it cannot learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import newer, refusal

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import UserError
from largedrop.training.objectives import OBJECTIVES
from largedrop.training.resolve import resolve, with_seed


def resolved(data: ld.Dataset, **settings: Any) -> Config:
    given = {"model": "test_resnet", "weights": "random", "size": 32, "test_domain": "photo", **settings}
    return resolve(data, torch.device("cpu"), recipe="short", **given)


def test_another_seed_changes_nothing_else(config: Config) -> None:
    other, slow = with_seed(config, np.int64(7)), replace(config, seed=7)  # type: ignore[arg-type]
    assert (other, other.digest(), hash(other)) == (slow, slow.digest(), hash(slow))
    assert config.seed == 0
    assert refusal(with_seed, config, -1) == "seed must be a whole number from 0 to 2**32 - 1, not -1"


@newer("test_coatnet")
@pytest.mark.parametrize("fit", ["all", "linear", "probe"])
def test_a_size_that_the_network_does_not_take(data: ld.Dataset, fit: str) -> None:
    assert refusal(resolved, data, model="test_coatnet", size=100, fit=fit) == (
        "test_coatnet takes no images of 100 pixels; of the sizes near it, it takes 64, 96, 128 and 160"
    )
    assert refusal(resolved, data, model="test_resnet+test_coatnet", size=100, fit="probe").startswith(
        "test_coatnet takes"
    )


@newer("test_coatnet")
def test_a_network_of_a_fixed_size_is_resolved(data: ld.Dataset) -> None:
    assert resolved(data, model="test_coatnet").size == 32


ONE: dict[str, Any] = {"batch": 1, "left_out": "oil"}
"""One image of one training domain in a batch."""


@pytest.mark.parametrize("settings", [ONE, {"batch": 1, "objective": "mldg"}])
def test_batch_norm_that_learns_its_statistics_from_one_value(data: ld.Dataset, settings: dict[str, Any]) -> None:
    assert refusal(resolved, data, **settings) == (
        "test_resnet cannot learn from a batch of one image of 32 pixels: its batch norms need more than one value for "
        "each channel; set batch to 2 or more"
    )


@pytest.mark.parametrize(
    "settings",
    [{"batch": 1}, {**ONE, "batch": 2}, {**ONE, "fit": "probe"}, {**ONE, "model": "test_vit"}, {**ONE, "size": 64}],
)
def test_where_there_are_more_values_it_learns(data: ld.Dataset, settings: dict[str, Any]) -> None:
    assert resolved(data, **settings).batch == settings["batch"]


def test_frozen_batch_norm_takes_one_image(data: ld.Dataset, weights: Path) -> None:
    assert resolved(data, model="test_efficientnet", weights=str(weights), **ONE).batch == 1


@pytest.mark.parametrize("objective", ["coral", "vrex", "irm", "mldg", "mixout", "l2sp"])
def test_the_defaults_of_every_objective(data: ld.Dataset, objective: str) -> None:
    chosen = resolve(data, torch.device("cpu"), recipe="short", test_domain="photo", objective=objective, size=32)
    assert chosen.penalty == OBJECTIVES[objective].default_weight
    assert chosen.penalty_after == (chosen.steps // 10 if objective in ("vrex", "irm") else None)


def test_cross_entropy_with_a_penalty_of_0_is_the_run_without(data: ld.Dataset) -> None:
    one, other = (
        resolve(data, torch.device("cpu"), recipe="short", test_domain="photo", size=32, penalty=penalty)
        for penalty in (0.0, None)
    )
    assert one == other
    assert one.penalty is None


def test_an_objective_that_compares_domains_needs_two(data: ld.Dataset) -> None:
    chosen = np.flatnonzero(data.domain_ids < 2)
    images = {name: getattr(data, name)[chosen] for name in ("labels", "domain_ids", "groups")}
    small = replace(data, domains=data.domains[:2], keys=tuple(data.keys[index] for index in chosen), **images)
    with pytest.raises(UserError, match="coral compares training domains: it needs 2 or more, not 1"):
        resolve(small, torch.device("cpu"), recipe="short", test_domain="ink", objective="coral", size=32)
