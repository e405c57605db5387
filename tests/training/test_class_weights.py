"""Tests of largedrop.training.class_weights."""

from __future__ import annotations

import numpy as np
import pytest

from largedrop.training.class_weights import balancing_weights, class_weights


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
