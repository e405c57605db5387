"""The state of many linear models of one shape, and their steps of SGD in plain torch on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.dataset import IntArray
from ...data.random import torch_seed
from ..problem import LinearSetting, Problem
from .masks import LEVELS, dropped_levels, kept, mask_key

__all__ = ["Batches", "Group", "Source", "Stack", "TensorSteps", "work"]


Result = TypeVar("Result")

Source = tuple[int, str, int, int]
"""What batches depend on besides the step: the problem's id, the fit, the seed and the images of each domain."""

Batches = dict[Source, tuple[IntArray, IntArray]]
"""For every source, the images of some steps and their views, each (steps, rows)."""


def work(pool: ThreadPoolExecutor | None, jobs: Iterable[Callable[[], Result]]) -> list[Result]:
    """Do all jobs, on the threads of the pool where there is one."""
    return [job() for job in jobs] if pool is None else list(pool.map(lambda job: job(), jobs))


@dataclass(frozen=True, eq=False)
class Group:
    """Settings that differ in learning rate and weight decay alone, so that they see the same batches and masks.

    Attributes:
        problem: what they are trained on.
        settings: one each.
        places: of the settings among all tasks.
    """

    problem: Problem
    settings: tuple[LinearSetting, ...]
    places: tuple[int, ...]

    @property
    def dropped(self) -> int:
        """Of 65,536 values, those by which a unit is dropped."""
        return dropped_levels(self.settings[0].dropout)

    @property
    def source(self) -> Source:
        """What the batches depend on."""
        setting = self.settings[0]
        return id(self.problem), setting.fit, setting.seed, setting.batch


class Stack:
    """The state of groups of one shape.

    Columns are classes within settings, and padding. ``table`` is V ⊙ v, by which the taps are multiplied:
    y = Σᵢ V (vᵢ ⊙ φᵢ) + b = Σᵢ (V ⊙ vᵢ) φᵢ + b, so that all settings can read the same features. In a probe it is V.

    v starts as 1 for the last tap and as 0 for the others (the paper is silent): the model then begins as a new layer
    on the pretrained representation. Taps contain one another in a residual network, so all ones would count some
    blocks thrice. Where taps of different widths are put side by side, the same holds for the parts of v.

    Attributes:
        groups: of the stack.
        weight, bias: V and b, (groups, units, columns) and (groups, columns).
        v: (groups, taps, units, settings); empty in a probe.
        table: (groups, taps × units, columns).
        rate, decay: of each column, (groups, columns).
    """

    def __init__(self, groups: Sequence[Group], columns: int, device: torch.device, dtype: torch.dtype) -> None:
        first = groups[0]
        self.groups = tuple(groups)
        self.adapt = first.settings[0].fit == "linear"
        self.taps, self.units = first.problem.taps(first.settings[0].fit)
        self.settings, self.classes, self.columns = len(first.settings), first.problem.classes, columns
        self.rows = first.settings[0].batch * len(first.problem.train)
        count, used = len(groups), self.settings * self.classes

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.weight = zeros(count, self.units, columns)
        self.bias, self.rate, self.decay = (zeros(count, columns) for _ in range(3))
        for place, group in enumerate(groups):
            layer = _new_layer(self.units, self.classes, group.settings[0].seed)
            self.weight[place, :, :used] = layer.weight.detach().t().repeat(1, self.settings)
            self.bias[place, :used] = layer.bias.detach().repeat(self.settings)
            for values, name in ((self.rate, "lr"), (self.decay, "weight_decay")):
                each = torch.tensor([getattr(setting, name) for setting in group.settings], dtype=torch.float64)
                values[place, :used] = each.repeat_interleave(self.classes)
        self.v = zeros(count, self.taps if self.adapt else 0, self.units, self.settings)
        if self.adapt and self.taps > 1:
            self.v[:, -1] = 1
        elif self.adapt:
            self.v[:, 0, -first.problem.widths[-1] :] = 1
        self.table = self.weight
        if self.adapt:
            self.table = zeros(count, self.taps * self.units, columns)
            self.multiply()
        self.weight_velocity, self.bias_velocity, self.v_velocity = map(
            torch.zeros_like, (self.weight, self.bias, self.v)
        )

    def multiply(self) -> None:
        """Make ``table`` anew from V and v."""
        self.table.copy_(self.table_of(self.weight, self.v))

    def table_of(self, weight: Tensor, v: Tensor) -> Tensor:
        """V ⊙ v of any V and v, (groups, taps × units, columns)."""
        if not self.adapt:
            return weight
        each = v.repeat_interleave(self.classes, dim=3)
        wide = F.pad(each, (0, self.columns - each.shape[3]))
        return (wide * weight[:, None]).flatten(1, 2)


class TensorSteps:
    """Steps of a stack in torch, all groups in one matrix product; for GPUs, and to compare the kernels with."""

    together = 32

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._device, self._dtype = stack.weight.device, stack.weight.dtype
        sources = {group.source: group for group in stack.groups}
        noises = sorted({(group.settings[0].seed, group.dropped) for group in stack.groups})
        names = list(sources)
        self._sources, self._noises = list(sources.values()), noises
        self._source_of = torch.tensor([names.index(group.source) for group in stack.groups], device=self._device)
        self._noise_of = torch.tensor(
            [noises.index((group.settings[0].seed, group.dropped)) for group in stack.groups], device=self._device
        )
        self._dropped = torch.tensor([dropped for _, dropped in noises], device=self._device)
        scales = [LEVELS / (LEVELS - group.dropped) for group in stack.groups]
        self._scale = torch.tensor(scales, dtype=self._dtype, device=self._device)[:, None, None]
        self._views = {
            id(group.problem): [view.to(self._device) for view in group.problem.views] for group in self._sources
        }
        self._labels = {
            id(group.problem): torch.from_numpy(group.problem.labels).to(self._device) for group in self._sources
        }

    @torch.no_grad()
    def run(self, first: int, last: int, batches: Batches) -> None:
        """Take the steps ``first`` ≤ step < ``last``.

        Args:
            first: step.
            last: step after the last.
            batches: by source, images and views of each step, (steps, rows).
        """
        chosen = [[torch.from_numpy(part).to(self._device) for part in batches[g.source]] for g in self._sources]
        keys = torch.tensor([[mask_key(seed, step) for seed, _ in self._noises] for step in range(first, last)])
        keys = keys.to(self._device)
        setting = self.stack.groups[0].settings[0]
        for step in range(first, last):
            at = step - first
            x = torch.stack([self._features(g, *(part[at] for part in c)) for g, c in self._pairs(chosen)])
            labels = torch.stack([self._labels[id(g.problem)][images[at]] for g, (images, _) in self._pairs(chosen)])
            masks = kept(keys[at], self.stack.rows, self.stack.units, self._dropped)
            self._step(x, labels, masks, setting.momentum, setting.factor(step))

    def _pairs(self, chosen: list[list[Tensor]]) -> list[tuple[Group, list[Tensor]]]:
        return list(zip(self._sources, chosen, strict=True))

    def _features(self, group: Group, images: Tensor, views: Tensor) -> Tensor:
        """Of a batch, (rows, taps × units)."""
        width = self.stack.taps * self.stack.units
        tables = self._views[id(group.problem)]
        if len(tables) == 1:
            return tables[0][images, -width:].to(self._dtype)
        read = torch.stack([table[images, -width:] for table in tables[1:]])
        return read[views - 1, torch.arange(len(images), device=self._device)].to(self._dtype)

    def _step(self, x: Tensor, labels: Tensor, masks: Tensor, momentum: float, factor: float) -> None:
        stack = self.stack
        count, used = len(stack.groups), stack.settings * stack.classes
        x = x[self._source_of] * masks[self._noise_of].repeat(1, 1, stack.taps)
        logits = self._scale * torch.bmm(x, stack.table) + stack.bias[:, None]
        split = logits[..., :used].view(count, stack.rows, stack.settings, stack.classes)
        target = F.one_hot(labels, stack.classes)[self._source_of][:, :, None]
        errors = F.pad((split.softmax(3) - target).flatten(2), (0, stack.columns - used)) / stack.rows
        _descend(stack.bias, stack.bias_velocity, errors.sum(1), stack.rate, stack.decay, momentum, factor)
        gradient = torch.bmm(x.mT, self._scale * errors)
        rate, decay = stack.rate[:, None], stack.decay[:, None]
        if not stack.adapt:
            _descend(stack.weight, stack.weight_velocity, gradient, rate, decay, momentum, factor)
            return
        by_tap = gradient[..., :used].view(count, stack.taps, stack.units, stack.settings, stack.classes)
        weight = stack.weight[..., :used].view(count, 1, stack.units, stack.settings, stack.classes)
        of_weight = F.pad((by_tap * stack.v[..., None]).sum(1).flatten(2), (0, stack.columns - used))
        of_v = (by_tap * weight).sum(4)
        each = slice(0, used, stack.classes)
        _descend(stack.weight, stack.weight_velocity, of_weight, rate, decay, momentum, factor)
        _descend(stack.v, stack.v_velocity, of_v, rate[:, None, :, each], decay[:, None, :, each], momentum, factor)
        stack.multiply()


def _descend(
    values: Tensor, velocity: Tensor, gradient: Tensor, rate: Tensor, decay: Tensor, momentum: float, factor: float
) -> None:
    """A step of ``torch.optim.SGD``, in place."""
    velocity.mul_(momentum).add_(gradient + decay * values)
    values.sub_(factor * rate * velocity)


def _new_layer(units: int, classes: int, seed: int) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("linear head", seed))
        return torch.nn.Linear(units, classes)
