"""Features, targets and dropout masks of a few steps, each made once for all groups that share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .group import Group
from .masks import draw, multiplier

__all__ = ["Batches", "work"]

LONGEST = 16
"""Largest number of steps that are prepared and taken together, while a group's weights stay in a core's cache."""

ROOM = 2**28
"""Largest size of the features that are prepared together, in bytes, unless one step needs more."""

Source = tuple[int, str, int, int, bool]
"""Key of a step's features: problem, fit, seed, batch and whether that is balanced."""

Noise = tuple[int, int, int, float]
"""Key of a step's masks: seed, rows, units and rate."""


def work(pool: Executor, jobs: Iterable[Callable[[], None]]) -> None:
    """Call all jobs on the threads of the pool."""
    list(pool.map(lambda job: job(), jobs))


class Batches:
    """Batches and masks of a few steps, of groups with one schedule."""

    def __init__(self, groups: Sequence[Group]) -> None:
        dtype = groups[0].table.dtype
        self._sources = {_source(group): group for group in groups}
        self._noises = {_noise(group): group for group in groups if group.settings[0].dropout}
        each = sum(group.rows * group.features for group in self._sources.values()) * dtype.itemsize
        self.together = max(1, min(LONGEST, ROOM // each))
        self._features = {
            key: torch.empty(self.together, group.rows, group.features, dtype=dtype)
            for key, group in self._sources.items()
        }
        self._masks = {
            key: torch.empty(self.together, group.rows, group.units, dtype=dtype) for key, group in self._noises.items()
        }
        self._targets: dict[Source, Tensor] = {}

    def read(self, first: int, last: int, pool: Executor) -> None:
        """Prepare the steps ``first`` to ``last`` − 1, at most ``together``."""
        jobs: list[Callable[[], None]] = [partial(self._read, key, first, last) for key in self._sources]
        drawn = {noise[:3] for noise in self._noises}
        jobs += [partial(self._draw, shape, step, step - first) for shape in drawn for step in range(first, last)]
        work(pool, jobs)

    def of(self, group: Group) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, targets and masks for ``Group.take``, for ``together`` steps."""
        source = _source(group)
        return self._features[source], self._targets[source], self._masks.get(_noise(group))

    def _read(self, source: Source, first: int, last: int) -> None:
        group = self._sources[source]
        problem, setting = group.problem, group.settings[0]
        images, views = problem.batches(setting.batch, setting.seed, first, last, setting.balance)
        features = self._features[source][: last - first]
        rows = np.empty((images.size, group.features), problem.views[0].numpy().dtype)
        for number, view in enumerate(problem.views):
            at = np.flatnonzero(views == number)
            rows[at] = view.numpy()[images.ravel()[at], -group.features :]
        features.copy_(torch.from_numpy(rows).view_as(features))
        labels = torch.from_numpy(problem.labels[images])
        self._targets[source] = F.one_hot(labels, problem.classes).transpose(1, 2).to(features.dtype)

    def _draw(self, shape: tuple[int, int, int], step: int, index: int) -> None:
        seed, rows, units = shape
        drawn = draw(seed, step, rows, units)
        for noise, masks in self._masks.items():
            if noise[:3] == shape:
                multiplier(drawn, noise[3], masks[index].numpy())


def _source(group: Group) -> Source:
    setting = group.settings[0]
    return id(group.problem), setting.fit, setting.seed, setting.batch, setting.balance


def _noise(group: Group) -> Noise:
    return group.settings[0].seed, group.rows, group.units, group.settings[0].dropout
