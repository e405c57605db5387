"""The weights of classes by hand, and that a run trains by them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import config

import largedrop as ld
from largedrop.config import Config
from largedrop.data.dataset import Split
from largedrop.training.class_weights import balancing_weights, class_weights, held_out_weights
from largedrop.training.loop import train


def test_every_class_weighs_the_same() -> None:
    labels = np.array([3, 0, 3, 3, 5, 3, 0, 3])
    weights = balancing_weights(labels)
    assert weights.mean() == 1
    assert [weights[labels == label].sum() for label in (0, 3, 5)] == [8 / 3] * 3
    np.testing.assert_array_equal(balancing_weights(np.array([1, 2, 1, 2])), np.ones(4))


def test_classes_have_equal_parts_of_the_expected_loss() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [0] * 3 + [1] * 3 + [2] * 6 + [3])
    domains = [np.arange(8), np.arange(8, 20)]
    weights = class_weights(labels, domains, 5)
    # Shares of the domains: 3/4, 1/4, 0 and 1/4, 1/4, 1/2. The classes 3 and 4 are in neither.
    np.testing.assert_allclose(weights, [2 / 3, 4 / 3, 4 / 3, 1, 1])
    expected = np.mean([weights[labels[indices]].mean() for indices in domains])
    assert expected == pytest.approx(1)


def test_the_loss_that_swad_follows_weighs_classes_as_the_run_does() -> None:
    labels, none = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 1]), np.empty(0, np.int64)
    iid, domains = np.array([4, 5, 6, 7, 8, 9]), np.array([0, 0, 0, 0, 1, 1])
    split = Split(("a", "b"), (), (np.arange(3), np.arange(2, 4)), iid, domains, none, none)
    assert held_out_weights(config(), labels, split, 2) is None
    for asked in (
        {"balance": True},
        {"select_by": "iid-macro"},
        {"select_by": "iid-macro", "class_weights": "balanced"},
    ):
        found = held_out_weights(config(**asked), labels, split, 2)
        assert found is not None
        np.testing.assert_allclose(found, [2 / 3, 2 / 3, 2 / 3, 2, 1, 1])
    found = held_out_weights(config(class_weights="balanced"), labels, split, 2)
    assert found is not None
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 2 / 3, 2, 2 / 3, 2])  # shares of the training images: 3/4, 1/4


@pytest.mark.usefixtures("quick_heads")
def test_class_weights_train_otherwise_only_where_classes_differ(toy: Path, config: Config, tmp_path: Path) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    for path in sorted((root / "ink" / "red").iterdir())[2:]:
        path.unlink()
    for data, alike in ((ld.open_dataset(toy), True), (ld.open_dataset(root), False)):
        chosen = replace(config, fingerprint=data.fingerprint)
        kinds = ("none", "balanced")
        runs = [train(replace(chosen, class_weights=kind), data, tmp_path / f"{alike}-{kind}") for kind in kinds]
        one, other = (load_file(run.final)["head.weight"] for run in runs)
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5) == alike
