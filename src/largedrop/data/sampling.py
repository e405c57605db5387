"""Which images are in which batch: a function of (seed, step), so that a run can go on anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .dataset import IntArray
from .random import generator

__all__ = ["batch_indices"]


def batch_indices(domains: tuple[IntArray, ...], batch: int, seed: int, step: int) -> IntArray:
    """``batch`` images of each training domain, concatenated in the order of the domains.

    Each domain is gone through in an order that is shuffled anew for every epoch of its own, so that small domains come
    round more often than large ones and every domain weighs the same. The paper's public code draws with replacement.

    Args:
        domains: the training images of each domain.
        batch: images from each domain.
        seed: of the run.
        step: of the run, from 0.

    Returns:
        Indices into the dataset, (len(domains) × batch,).
    """
    parts = []
    for number, indices in enumerate(domains):
        places = np.arange(step * batch, (step + 1) * batch)
        epochs, positions = np.divmod(places, len(indices))
        orders = {int(epoch): _order(len(indices), seed, number, int(epoch)) for epoch in np.unique(epochs)}
        chosen = [orders[int(epoch)][position] for epoch, position in zip(epochs, positions, strict=True)]
        parts.append(indices[np.asarray(chosen, dtype=np.int64)])
    return np.concatenate(parts)


@lru_cache(maxsize=64)
def _order(count: int, seed: int, domain: int, epoch: int) -> IntArray:
    return generator("order", seed, domain, epoch).permutation(count).astype(np.int64)
