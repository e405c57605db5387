"""Which images are in which batch: a function of (seed, step), so that a run can be resumed at any step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .dataset import IntArray
from .random import generator

__all__ = ["batch_indices", "batches"]


def batch_indices(domains: tuple[IntArray, ...], batch: int, seed: int, step: int) -> IntArray:
    """The batch of one step, as ``batches`` makes it, (len(domains) × batch,)."""
    indices: IntArray = batches(domains, batch, seed, step, step + 1)[0]
    return indices


def batches(domains: tuple[IntArray, ...], batch: int, seed: int, first: int, last: int) -> IntArray:
    """The batches of the steps ``first`` to ``last`` − 1, each with ``batch`` images of each training domain.

    Each domain is traversed in an order that is shuffled for each of its epochs, so that small domains are repeated
    more often than large ones and every domain has the same weight.

    Args:
        domains: indices of the training images, one array per domain.
        batch: number of images per domain.
        seed: the run's seed.
        first: first step, counted from 0.
        last: end of the steps, exclusive.

    Returns:
        Indices into the dataset, domain after domain, (last - first, len(domains) × batch).
    """
    parts = []
    for number, indices in enumerate(domains):
        epochs, positions = np.divmod(np.arange(first * batch, last * batch), len(indices))
        chosen = np.empty(len(epochs), np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            chosen[here] = _order(len(indices), seed, number, epoch)[positions[here]]
        parts.append(indices[chosen].reshape(-1, batch))
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=256)
def _order(count: int, seed: int, domain: int, epoch: int) -> IntArray:
    return generator("order", seed, domain, epoch).permutation(count).astype(np.int64)
