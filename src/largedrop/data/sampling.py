"""Which images are in which batch: a function of (seed, step), so that a run can be resumed at any step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .dataset import IntArray
from .random import generator

__all__ = ["Classes", "batch_indices", "batches", "classes_of"]

Classes = tuple[tuple[IntArray, ...], ...]
"""Indices of the training images by domain, and of each domain by class."""


def classes_of(domains: tuple[IntArray, ...], labels: IntArray) -> Classes:
    """The training images by domain and by class, for balanced batches; without the classes that a domain lacks."""
    return tuple(
        tuple(indices[labels[indices] == label] for label in np.unique(labels[indices])) for indices in domains
    )


def batch_indices(
    domains: tuple[IntArray, ...], batch: int, seed: int, step: int, balanced: Classes | None = None
) -> IntArray:
    """The batch of one step, as ``batches`` makes it, (len(domains) × batch,)."""
    indices: IntArray = batches(domains, batch, seed, step, step + 1, balanced)[0]
    return indices


def batches(
    domains: tuple[IntArray, ...], batch: int, seed: int, first: int, last: int, balanced: Classes | None = None
) -> IntArray:
    """The batches of the steps ``first`` to ``last`` − 1, each with ``batch`` images of each training domain.

    Each domain is traversed in an order that is shuffled for each of its epochs, so that small domains are repeated
    more often than large ones and every domain has the same weight.

    With ``balanced`` so has every class of a domain: its classes follow each other in an order that is shuffled each
    time all have been drawn once, and each class is traversed as a domain otherwise is.

    Args:
        domains: indices of the training images, one array per domain.
        batch: number of images per domain.
        seed: the run's seed.
        first: first step, counted from 0.
        last: end of the steps, exclusive.
        balanced: the same images by class, for batches that are balanced by class.

    Returns:
        Indices into the dataset, domain after domain, (last - first, len(domains) × batch).
    """
    parts = []
    for number, indices in enumerate(domains):
        at = np.arange(first * batch, last * batch)
        if balanced is None:
            chosen = indices[_traversed(len(indices), at, "order", seed, number)]
        else:
            chosen = _balanced(balanced[number], at, seed, number)
        parts.append(chosen.reshape(-1, batch))
    return np.concatenate(parts, axis=1)


def _balanced(classes: Sequence[IntArray], at: IntArray, seed: int, domain: int) -> IntArray:
    """The images at the places ``at`` of the stream of a domain, whose classes are drawn equally often."""
    drawn = _traversed(len(classes), at, "classes", seed, domain)
    rounds = at // len(classes)  # in each round every class is drawn once
    chosen = np.empty(len(at), np.int64)
    for number, members in enumerate(classes):
        here = drawn == number
        chosen[here] = members[_traversed(len(members), rounds[here], "order in class", seed, domain, number)]
    return chosen


def _traversed(count: int, at: IntArray, purpose: str, *numbers: int) -> IntArray:
    """What is at the places ``at`` where 0 to ``count`` − 1 are traversed, shuffled anew in each epoch."""
    epochs, positions = np.divmod(at, count)
    chosen = np.empty(len(at), np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        chosen[here] = _order(count, purpose, *numbers, epoch)[positions[here]]
    return chosen


@lru_cache(maxsize=256)
def _order(count: int, purpose: str, *numbers: int) -> IntArray:
    return generator(purpose, *numbers).permutation(count).astype(np.int64)
