"""Steps of many linear models on a processor: masks and batches are made once for all that share them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import IntArray
from ...errors import UserError
from .drawing import draw, gather, mask, pack, thin, turn
from .kernels import train
from .masks import LEVELS, mask_key
from .stack import Batches, Group, Source, Stack, work
from .vectors import LANES, Ints, Places

__all__ = ["CompiledSteps"]


LONGEST = 16
"""Steps that are prepared and taken together: a group's weights stay in a core's cache for as long."""

BUFFER = 2**26
"""Bytes of features that are prepared together, at most, as long as there is a step."""

DENSE = LEVELS // 2
"""Up to this dropped level what is dropped is multiplied as zeros: lists of what is kept cost more than they save."""

Noise = tuple[int, int, int]
"""Seed, rows and units: what masks depend on besides the step and the rate."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """The kept units of some steps, as ``drawing`` writes them, each array (steps, …)."""

    dropped: int
    row_starts: IntArray
    row_places: Places
    values: Places
    unit_starts: IntArray
    unit_places: Places
    order: Ints

    @classmethod
    def room(cls, steps: int, noise: Noise, dropped: int) -> _Kept:
        """Room for some steps; none for lists of a rate that has none."""
        _, rows, units = noise
        most = rows * units + 1 if dropped > DENSE else 0
        return cls(
            dropped,
            np.empty((steps, rows + 1), np.int64),
            np.empty((steps, most), np.uint16),
            np.empty((steps, most), np.uint16),
            np.empty((steps, units + 1), np.int64),
            np.empty((steps, most), np.uint16),
            np.empty((steps, most), np.int32),
        )


def _draw(drawn: Places, rooms: Iterable[_Kept], noise: Noise, step: int, place: int) -> None:
    """Draw the masks of a step, and list what is kept: by each higher rate of what the one before keeps."""
    seed, _, units = noise
    draw(np.uint64(mask_key(seed, step)), drawn[place].ravel().view(np.uint64))
    lower: _Kept | None = None
    for room in rooms:
        if room.dropped <= DENSE:
            continue
        lists = room.row_starts[place], room.row_places[place], room.values[place]
        if lower is None:
            gather(drawn[place], room.dropped, units, *lists)
        else:
            thin(room.dropped, lower.row_starts[place], lower.row_places[place], lower.values[place], *lists)
        turn(*lists[:2], room.unit_starts[place], room.unit_places[place], room.order[place])
        lower = room


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
        if max(max(stack.rows, stack.units) for stack in stacks) >= LEVELS:
            raise UserError(f"a batch, and what a linear model reads, may be at most {LEVELS - 1} wide on a processor")
        dtype = stacks[0].weight.dtype
        rates: dict[Noise, set[int]] = defaultdict(set)
        rates_of: dict[Source, set[int]] = defaultdict(set)
        for stack, place in members:
            dropped = stack.groups[place].dropped
            rates[_noise(stack, place)].add(dropped)
            if dropped:
                rates_of[_source(stack, place)].add(dropped)
        widths = {key: _padded(stack.taps * stack.units) for key, (stack, _) in self._sources.items()}
        each = sum(
            stack.rows * widths[key] * (1 + sum(1 if d <= DENSE else 1 - d / LEVELS for d in rates_of[key]))
            for key, (stack, _) in self._sources.items()
        )
        self.together = max(1, min(LONGEST, int(BUFFER / (each * dtype.itemsize))))
        self._batches = {
            key: torch.zeros(self.together, stack.rows, widths[key], dtype=dtype)
            for key, (stack, _) in self._sources.items()
        }
        self._kept = {
            noise: {dropped: _Kept.room(self.together, noise, dropped) for dropped in sorted(of_noise)}
            for noise, of_noise in rates.items()
        }
        self._drawn = {
            noise: np.empty((self.together, noise[1], 4 * -(-noise[2] // 4)), np.uint16)
            for noise, of_noise in rates.items()
            if any(of_noise)
        }
        self._thinned = {
            key: {
                dropped: torch.zeros_like(self._batches[key])
                if dropped <= DENSE
                else torch.empty(self.together, stack.taps, stack.rows * stack.units + 1, dtype=dtype)
                for dropped in rates_of[key]
            }
            for key, (stack, _) in self._sources.items()
        }

    def run(self, first: int, last: int, batches: Batches) -> None:
        """Take the steps ``first`` ≤ step < ``last``, at most ``together``; ``batches`` as in ``TensorSteps.run``."""
        draws = [
            partial(_draw, drawn, self._kept[noise].values(), noise, step, step - first)
            for noise, drawn in self._drawn.items()
            for step in range(first, last)
        ]
        work(self._pool, draws)
        work(self._pool, [partial(self._read, source, last - first, batches) for source in self._sources])
        work(self._pool, [partial(self._train, *member, first, last, batches) for member in self._members])

    def _read(self, source: Source, count: int, batches: Batches) -> None:
        """Copy the features of a source's batches, and those of them that each rate keeps."""
        stack, group = self._sources[source]
        _copy(self._batches[source][:count], group, *batches[source])
        noise = group.settings[0].seed, stack.rows, stack.units
        for dropped, thinned in self._thinned[source].items():
            room = self._kept[noise][dropped]
            for step in range(count):
                x, target = self._batches[source][step].numpy(), thinned[step].numpy()
                if dropped <= DENSE:
                    mask(x, stack.units, self._drawn[noise][step], dropped, target)
                else:
                    pack(x, stack.units, room.row_starts[step], room.row_places[step], target)

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
        source = _source(stack, place)
        x = self._thinned[source][group.dropped] if group.dropped else self._batches[source]
        room = self._kept[_noise(stack, place)][group.dropped]
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
            room.row_places.ravel(),
            room.unit_starts,
            room.unit_places.ravel(),
            room.order.ravel(),
            group.dropped <= DENSE,
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


def _copy(target: Tensor, group: Group, images: IntArray, views: IntArray) -> None:
    """Copy the features of a group's batches into (steps, rows, at least taps × units)."""
    taps, units = group.problem.taps(group.settings[0].fit)
    width = taps * units
    flat = target.view(-1, target.shape[2])[:, :width]
    chosen, drawn = torch.from_numpy(images).flatten(), views.ravel()
    for number, view in enumerate(group.problem.views):
        at = np.flatnonzero(drawn == number)
        if len(at) == len(drawn):
            flat.copy_(view.index_select(0, chosen)[:, -width:])
        elif len(at):
            flat[torch.from_numpy(at)] = view.index_select(0, chosen[at])[:, -width:].to(flat.dtype)


def _source(stack: Stack, place: int) -> Source:
    return stack.groups[place].source


def _noise(stack: Stack, place: int) -> Noise:
    group = stack.groups[place]
    return group.settings[0].seed, stack.rows, stack.units


def _cost(member: tuple[Stack, int]) -> float:
    stack, place = member
    share = 1 - stack.groups[place].dropped / LEVELS
    return stack.taps * stack.units * stack.columns * (share * stack.rows + 15)


def _padded(width: int) -> int:
    """A row's length of which a column's entries fall into different sets of the cache: an odd number of lines."""
    return LANES * (-(-width // LANES) | 1)
