"""Steps of many linear models on a processor: masks and batches are made once for all that share them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.dataset import IntArray
from .drawing import draw
from .kernels import LANES, train
from .masks import LEVELS, mask_key
from .stack import Batches, Group, Source, Stack, work

__all__ = ["CompiledSteps"]

LONGEST = 16
"""Steps that are prepared and taken together: a group's weights stay in a core's cache for as long."""
BUFFER = 2**25
"""Bytes of features that are prepared together, at most, as long as there is a step."""
Noise = tuple[int, int, int, int]
"""Seed, how many levels are dropped, rows and units: what masks depend on besides the step."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """The kept units of some steps, as ``kernels.draw`` writes them."""

    row_starts: IntArray
    row_places: npt.NDArray[np.int32]
    unit_starts: IntArray
    unit_places: npt.NDArray[np.int32]

    @classmethod
    def room(cls, steps: int, noise: Noise) -> _Kept:
        _, _, rows, units = noise
        most = steps * rows * units + 1
        return cls(
            np.empty((steps, rows + 1), np.int64),
            np.empty(most, np.int32),
            np.empty((steps, units + 1), np.int64),
            np.empty(most, np.int32),
        )

    def draw(self, noise: Noise, first: int, last: int) -> None:
        seed, dropped, rows, units = noise
        keys = np.array([mask_key(seed, step) for step in range(first, last)], np.uint64)
        draw(keys, dropped, rows, units, self.row_starts, self.row_places, self.unit_starts, self.unit_places)


class CompiledSteps:
    """Steps of some stacks with one schedule.

    Args:
        stacks: their state, on the processor.
        pool: threads to work on; None for this one alone.
    """

    def __init__(self, stacks: list[Stack], pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool
        members = [(stack, place) for stack in stacks for place in range(len(stack.groups))]
        self._members = sorted(members, key=_cost, reverse=True)  # the longest first, so that threads end together
        self._sources = {_source(stack, place): (stack, stack.groups[place]) for stack, place in members}
        dtype = stacks[0].weight.dtype
        widths = {key: _padded(stack.taps * stack.units) for key, (stack, _) in self._sources.items()}
        each = sum(stack.rows * widths[key] for key, (stack, _) in self._sources.items()) * dtype.itemsize
        self.together = max(1, min(LONGEST, BUFFER // each))
        self._batches = {
            key: torch.zeros(self.together, stack.rows, widths[key], dtype=dtype)
            for key, (stack, _) in self._sources.items()
        }
        noises = {_noise(stack, place) for stack, place in members}
        self._kept = {noise: _Kept.room(self.together if noise[1] else 1, noise) for noise in noises}
        for noise, room in self._kept.items():
            if not noise[1]:
                room.draw(noise, 0, 1)  # nothing is dropped in any step

    def run(self, first: int, last: int, batches: Batches) -> None:
        """Take the steps ``first`` ≤ step < ``last``, at most ``together``; ``batches`` as in ``TensorSteps.run``."""
        count = last - first
        prepare = [partial(room.draw, noise, first, last) for noise, room in self._kept.items() if noise[1]]
        for key, (_, group) in self._sources.items():
            prepare.append(partial(self._read, self._batches[key][:count], group, *batches[group.source]))
        work(self._pool, prepare)
        work(self._pool, [partial(self._train, *member, first, last, batches) for member in self._members])

    @staticmethod
    def _read(target: Tensor, group: Group, images: IntArray, views: IntArray) -> None:
        """Copy the features of a source's batches into (steps, rows, at least taps × units)."""
        taps, units = group.problem.taps(group.settings[0].fit)
        width = taps * units
        flat = target.view(-1, target.shape[2])[:, :width]
        chosen, drawn = torch.from_numpy(images.ravel()), views.ravel()
        for number, view in enumerate(group.problem.views):
            at = np.flatnonzero(drawn == number)
            if len(at) == len(drawn):
                flat.copy_(view[chosen][:, -width:])
            elif len(at):
                flat[torch.from_numpy(at)] = view[chosen[at]][:, -width:].to(flat.dtype)

    def _train(
        self,
        stack: Stack,
        place: int,
        first: int,
        last: int,
        batches: Batches,
    ) -> None:
        group = stack.groups[place]
        setting = group.settings[0]
        x = self._batches[_source(stack, place)]
        room = self._kept[_noise(stack, place)]
        kind = x.numpy().dtype.type
        weight, weight_velocity, v, v_velocity, table = (
            values[place].view(-1).numpy()
            for values in (stack.weight, stack.weight_velocity, stack.v, stack.v_velocity, stack.table)
        )
        bias, bias_velocity, rate, decay = (
            values[place].numpy() for values in (stack.bias, stack.bias_velocity, stack.rate, stack.decay)
        )
        train(
            x.view(-1).numpy(),
            x.shape[2],
            group.problem.labels[batches[group.source][0]],
            room.row_starts,
            room.row_places,
            room.unit_starts,
            room.unit_places,
            np.array([LEVELS / (LEVELS - group.dropped)], kind),
            stack.taps,
            stack.settings,
            stack.classes,
            np.array([setting.factor(step) for step in range(first, last)], kind),
            rate,
            decay,
            kind(setting.momentum),
            stack.adapt,
            (weight, weight_velocity, bias, bias_velocity),
            (v, v_velocity, table),
        )


def _source(stack: Stack, place: int) -> Source:
    return stack.groups[place].source


def _noise(stack: Stack, place: int) -> Noise:
    group = stack.groups[place]
    return group.settings[0].seed if group.dropped else 0, group.dropped, stack.rows, stack.units


def _cost(member: tuple[Stack, int]) -> float:
    stack, place = member
    share = 1 - stack.groups[place].dropped / LEVELS
    return stack.taps * stack.units * stack.columns * (share * stack.rows + 15)


def _padded(width: int) -> int:
    """A row's length of which a column's entries fall into different sets of the cache: an odd number of lines."""
    return LANES * (-(-width // LANES) | 1)
