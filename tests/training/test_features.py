"""Cached features: every view of an image through the frozen network once, and again only for what they depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import Watch, assert_same_run
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews
from largedrop.models.network import Network
from largedrop.training.evaluation import representations
from largedrop.training.features import VIEWS, FeatureCache
from largedrop.training.loop import train
from largedrop.training.setup import create_network

AFTER: dict[str, Any] = {
    "test_domain": "ink",
    "dropout": 0.0,
    "head": "random",
    "lr": 1.0,
    "steps": 9,
    "batch": 1,
    "optimizer": "adamw",
    "weight_decay": 0.5,
    "held_out": 0.5,
    "eval_every": 1,
    "head_lr_multiplier": 10.0,
}
"""Settings that come in after the features."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that went through a network, call by call."""
    counts: list[int] = []
    represent = Network.represent

    def counted(self: Network, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return represent(self, images)

    monkeypatch.setattr(Network, "represent", counted)
    return counts


def test_every_view_of_an_image_is_computed_once(data: ld.Dataset, config: Config, seen: list[int]) -> None:
    done: list[int] = []
    cache = FeatureCache(HostViews(data), Watch(advance=done.append))
    network = create_network(config, data.classes)
    tables = [cache.get(config, network, view) for view in range(VIEWS)]
    again = [cache.get(replace(config, **AFTER), network, view) for view in range(VIEWS)]
    assert all(one is other for one, other in zip(tables, again, strict=True))
    assert sum(seen) == sum(done) == VIEWS * len(data) == VIEWS * 54
    for table in tables:
        assert table.shape == (54, network.head.in_features)
        assert table.dtype == torch.float16
    for view in range(1, VIEWS):
        assert not torch.equal(tables[0], tables[view])
    exact = representations(network, HostViews(data), np.arange(54), "float32")
    assert torch.equal(tables[0], exact.half())


def test_training_views_are_the_same_in_every_process(data: ld.Dataset, config: Config) -> None:
    one, other = (FeatureCache(HostViews(data)).get(config, create_network(config, data.classes), 1) for _ in range(2))
    assert torch.equal(one, other)


def test_the_global_generator_and_the_mode_are_left(data: ld.Dataset, config: Config) -> None:
    network = create_network(config, data.classes).train()
    before = torch.get_rng_state()
    for view in range(2):
        FeatureCache(HostViews(data)).get(config, network, view)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


def computed_anew(data: ld.Dataset, one: Config, other: Config, seen: list[int]) -> bool:
    cache, network = FeatureCache(HostViews(data)), create_network(replace(one, weights_digest=""), data.classes)
    cache.get(one, network, 0)
    seen.clear()
    cache.get(other, network, 0)
    assert sum(seen) in (0, len(data))
    return sum(seen) > 0


@pytest.mark.parametrize("name", sorted(AFTER))
def test_what_comes_after_the_features(data: ld.Dataset, config: Config, seen: list[int], name: str) -> None:
    assert not computed_anew(data, config, replace(config, **{name: AFTER[name]}), seen)


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "test_vit"), ("weights_digest", "abc"), ("size", 48), ("precision", "bfloat16"), ("seed", 1)],
)
def test_what_features_depend_on(data: ld.Dataset, config: Config, seen: list[int], name: str, value: Any) -> None:
    assert computed_anew(data, config, replace(config, **{name: value}), seen)


def test_the_seed_matters_only_to_random_weights(data: ld.Dataset, config: Config, seen: list[int]) -> None:
    cache, network = FeatureCache(HostViews(data)), create_network(config, data.classes)
    fixed = replace(config, weights="pretrained", weights_digest="abc")
    assert cache.get(fixed, network, 0) is cache.get(replace(fixed, seed=1), network, 0)
    assert sum(seen) == len(data)


@pytest.mark.usefixtures("quick_heads")
def test_runs_that_share_features_have_the_bits_of_runs_that_do_not(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [replace(config, dropout=dropout) for dropout in (0.0, 0.9)]
    shared, seen = FeatureCache(HostViews(data)), [0]
    represent = Network.represent

    def counted(self: Network, images: Tensor) -> Tensor:
        seen[0] += len(images) if torch.is_inference_mode_enabled() else 0
        return represent(self, images)

    for number, one in enumerate(configs):
        train(one, data, tmp_path / f"alone{number}")
        monkeypatch.setattr(Network, "represent", counted)
        before = seen[0]
        train(one, data, tmp_path / f"shared{number}", features=shared)
        evaluations = (6 + 18) * (1 + len(one.evaluations) + 1)
        assert seen[0] - before - evaluations == (VIEWS * len(data) if number == 0 else 0)
        monkeypatch.setattr(Network, "represent", represent)
        assert_same_run(tmp_path / f"alone{number}", tmp_path / f"shared{number}")
