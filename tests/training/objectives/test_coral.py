"""Deep CORAL's penalty against numpy, and its gradient against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from largedrop.training.objectives.coral import coral_penalty


def by_numpy(representation: npt.NDArray[np.float64]) -> float:
    distances = []
    for one, other in itertools.combinations(representation, 2):
        means = (one.mean(0) - other.mean(0)) ** 2
        covariances = (np.cov(one, rowvar=False) - np.cov(other, rowvar=False)) ** 2
        distances.append(means.mean() + covariances.mean())
    return float(np.mean(distances))


@pytest.mark.parametrize("domains", [2, 3, 5])
def test_the_formula(domains: int) -> None:
    representation = np.random.default_rng(0).normal(size=(domains, 7, 4)) * np.arange(1, domains + 1)[:, None, None]
    found = coral_penalty(torch.from_numpy(representation))
    assert float(found) == pytest.approx(by_numpy(representation), rel=1e-12)


def test_only_the_means_differ() -> None:
    one = torch.randn(6, 3, dtype=torch.float64)
    assert float(coral_penalty(torch.stack([one, one + 2]))) == pytest.approx(4)
    assert float(coral_penalty(torch.stack([one, one.flip(0)]))) == pytest.approx(0, abs=1e-20)


def test_the_gradient() -> None:
    representation = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(coral_penalty, (representation,))
