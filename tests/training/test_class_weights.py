"""Tests of largedrop.training.class_weights."""

from __future__ import annotations

import numpy as np

from largedrop.training.class_weights import balancing_weights


def test_every_class_weighs_the_same() -> None:
    labels = np.array([3, 0, 3, 3, 5, 3, 0, 3])
    weights = balancing_weights(labels)
    assert weights.mean() == 1
    assert [weights[labels == label].sum() for label in (0, 3, 5)] == [8 / 3] * 3
    np.testing.assert_array_equal(balancing_weights(np.array([1, 2, 1, 2])), np.ones(4))
