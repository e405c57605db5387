"""Tests of largedrop.training.class_weights."""

from __future__ import annotations

import numpy as np
import pytest
from tests.helpers import config

from largedrop.data.dataset import Split
from largedrop.training.class_weights import balancing_weights, class_weights, held_out_weights


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
