"""Linear fine-tuning and linear probing of many settings at once, by the paper's protocol (sections 3.2 and 4.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...reporter import SILENT, Reporter
from ...runtime import one_thread
from ..problem import LinearSetting, Problem
from .stack import Batches, Group, Stack, TensorSteps, work

__all__ = ["LinearEvaluation", "LinearModel", "LinearResult", "train_linear"]


LANES = 16
"""Columns of a stack are a multiple of this, ``vectors.LANES``; that module imports numba."""

TOGETHER = 64
"""Columns of a group on a processor: its weights and their momentum fit into a core's second cache."""

ROWS = 1024
"""Images at a time in an evaluation."""

CPU = torch.device("cpu")

Task = tuple[Problem, LinearSetting]

_Score = tuple[float, float, float, Tensor | None]
"""I.i.d. and o.o.d. accuracy, i.i.d. loss, and where asked for the logits, (iid + ood images, classes)."""


@dataclass(frozen=True)
class LinearEvaluation:
    """Scores after a step.

    Attributes:
        step: number of steps taken.
        iid_accuracy: share of right answers on the held-out images; from float16 logits, as everywhere.
        ood_accuracy: likewise on the test domain.
        iid_loss: cross-entropy on the held-out images, in nats.
    """

    step: int
    iid_accuracy: float
    ood_accuracy: float
    iid_loss: float


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A trained model.

    Attributes:
        weight: V, (classes, units).
        bias: b, (classes,).
        v: (taps, units), or None in a probe. Taps of different widths lie side by side, (1, sum of widths).
    """

    weight: Tensor
    bias: Tensor
    v: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, (n, classes), of features (n, sum of the taps' widths)."""
        features = features.to(self.weight.dtype)
        if self.v is None:
            adapted = features[:, -self.weight.shape[1] :]
        else:
            adapted = (features.reshape(len(features), *self.v.shape) * self.v).sum(1)
        return F.linear(adapted, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class LinearResult:
    """What came of a setting.

    Attributes:
        setting: it.
        evaluations: one each; of a diverged setting those before it was seen.
        best: the evaluation of best i.i.d. accuracy, the first of several; None where the setting diverged before any.
        best_model: the model then.
        last_model: the model after the last step.
        mean_model: the weights averaged over the evaluations.
        mean: its scores.
        diverged_at: step after which an evaluation found weights that are not finite; None where all were.
        iid_logits: averaged over the evaluations (the trajectory's ensemble), float32 (iid images, classes), if asked.
        ood_logits: likewise on the test domain.
    """

    setting: LinearSetting
    evaluations: tuple[LinearEvaluation, ...]
    best: LinearEvaluation | None
    best_model: LinearModel | None
    last_model: LinearModel
    mean_model: LinearModel
    mean: LinearEvaluation
    diverged_at: int | None
    iid_logits: Tensor | None
    ood_logits: Tensor | None


def train_linear(
    tasks: Sequence[Task],
    *,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    outputs: bool = False,
    compiled: bool | None = None,
    reporter: Reporter = SILENT,
) -> list[LinearResult]:
    """Train every setting by SGD with momentum and L2 decay, exactly as ``torch.optim.SGD`` does.

    ``linear`` is equation 1: Φ̃ = Σ vᵢ ⊙ φᵢ, y = V Φ̃ + b with dropout on Φ̃ (section 4.3); where the taps differ in
    width, y = Σ Vᵢ (vᵢ ⊙ φᵢ) + b with dropout on the taps side by side. ``probe`` is y = V φ + b with dropout on the
    last tap φ. The loss is the cross-entropy, averaged over a batch of equal numbers from each training domain: the
    images that a full fine-tuning of that seed has at that step.

    Settings of one problem object, fit, seed, rate and schedule share batches and masks, masks are shared by all
    problems, and what dropout removes is not computed. A mask is a function of (seed, step, rate), so no result depends
    on what is trained beside it. On a processor work is divided among ``torch.get_num_threads()`` threads, and the
    number of threads changes no bit either.

    Args:
        tasks: problems and settings. A problem that occurs often should be one object.
        device: where to compute.
        dtype: of weights and arithmetic, float32 or float64.
        outputs: whether to average the logits over the evaluations, for ensembles.
        compiled: whether to use the kernels for processors; by default where ``device`` is one.
        reporter: told of the number of steps that were taken, one for each setting, and asked now and then whether to
            stop.

    Returns:
        One result for each task, in their order, on the processor.

    Raises:
        Interrupted: the reporter said so.
        UserError: a batch or a representation is too wide for the kernels, 65,536 or more.
    """
    use_kernels = device.type == "cpu" if compiled is None else compiled
    schedules: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, (_, setting) in enumerate(tasks):
        # What the loop over the steps is about; the learning rate's factor is looked up for each group.
        schedules[setting.steps, setting.eval_every].append(place)
    results: dict[int, LinearResult] = {}
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for places in schedules.values():
            stacks = _stacks(tasks, places, device, dtype, TOGETHER if use_kernels else 2**31)
            trainer = _Trainer(stacks, pool, outputs, use_kernels)
            trainer.run(reporter)
            results.update(trainer.results())
    return [results[place] for place in range(len(tasks))]


def _stacks(
    tasks: Sequence[Task], places: list[int], device: torch.device, dtype: torch.dtype, columns: int
) -> list[Stack]:
    """Put what shares batches and masks into groups, and groups of one shape into stacks."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place in places:
        problem, setting = tasks[place]
        same = (setting.momentum, setting.batch, setting.decay_at, setting.decay_again_at)
        groups[(id(problem), setting.fit, setting.seed, setting.dropout, *same)].append(place)
    stacks: dict[tuple[object, ...], list[Group]] = defaultdict(list)
    for members in groups.values():
        problem, setting = tasks[members[0]]
        most = max(1, columns // problem.classes)
        parts = -(-len(members) // most)
        for part in range(parts):
            chosen = members[part::parts]
            shape = (problem.taps(setting.fit), problem.widths[-1], problem.classes, len(problem.train), len(chosen))
            same = (setting.momentum, setting.batch, setting.decay_at, setting.decay_again_at)
            group = Group(problem, tuple(tasks[place][1] for place in chosen), tuple(chosen))
            stacks[(setting.fit, *shape, *same)].append(group)
    return [
        Stack(found, LANES * -(-len(found[0].settings) * found[0].problem.classes // LANES), device, dtype)
        for found in stacks.values()
    ]


@dataclass
class _Record:
    """What is kept of a setting while it is trained."""

    evaluations: list[LinearEvaluation] = field(default_factory=list)
    best: LinearEvaluation | None = None
    best_model: LinearModel | None = None
    diverged_at: int | None = None
    logits: Tensor | None = None


class _Steps(Protocol):
    together: int
    """The most steps to be taken in a call."""

    def run(self, first: int, last: int, batches: Batches) -> None: ...


class _Trainer:
    """Stacks with one schedule, from their first step to their results."""

    def __init__(self, stacks: list[Stack], pool: ThreadPoolExecutor | None, outputs: bool, compiled: bool) -> None:
        self._stacks, self._pool, self._outputs = stacks, pool, outputs
        self._setting = stacks[0].groups[0].settings[0]
        self._records = {place: _Record() for stack in stacks for group in stack.groups for place in group.places}
        self._sums = [[torch.zeros_like(values) for values in (s.weight, s.bias, s.v)] for s in stacks]
        self._steps: list[_Steps] = [TensorSteps(stack) for stack in stacks] if not compiled else []
        if compiled:
            from .compiled import CompiledSteps

            self._steps = [CompiledSteps(stacks, pool)]
        self._readers: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for number, stack in enumerate(stacks):
            for place, group in enumerate(stack.groups):
                self._readers[group.source[:2]].append((number, place))

    def run(self, reporter: Reporter) -> None:
        """Take all steps, and evaluate where the setting says."""
        sources = {group.source: group for stack in self._stacks for group in stack.groups}
        together = min(steps.together for steps in self._steps)
        for before, after in pairwise((0, *self._setting.evaluations)):
            for first in range(before, after, together):
                last = min(first + together, after)
                batches = {
                    source: group.problem.batches(group.settings[0].batch, group.settings[0].seed, first, last)
                    for source, group in sources.items()
                }
                for steps in self._steps:
                    steps.run(first, last, batches)
                reporter.advance((last - first) * len(self._records))
                reporter.raise_if_stopped(f"stopped after step {last} of {self._setting.steps}")
            self._evaluate(after)

    def results(self) -> dict[int, LinearResult]:
        """By the place of the task."""
        count = len(self._setting.evaluations)
        means = [[total / count for total in sums] for sums in self._sums]
        scores = self._scores(means)
        found = {}
        for number, stack in enumerate(self._stacks):
            for place, group in enumerate(stack.groups):
                for column, task in enumerate(group.places):
                    record = self._records[task]
                    iid: Tensor | None = None
                    ood: Tensor | None = None
                    if record.logits is not None:
                        mean_logits = record.logits / count
                        iid, ood = mean_logits[: len(group.problem.iid)], mean_logits[len(group.problem.iid) :]
                    found[task] = LinearResult(
                        setting=group.settings[column],
                        evaluations=tuple(record.evaluations),
                        best=record.best,
                        best_model=record.best_model,
                        last_model=_model(stack, [stack.weight, stack.bias, stack.v], place, column),
                        mean_model=_model(stack, means[number], place, column),
                        mean=LinearEvaluation(self._setting.steps, *scores[task][:3]),
                        diverged_at=record.diverged_at,
                        iid_logits=iid,
                        ood_logits=ood,
                    )
        return found

    def _evaluate(self, step: int) -> None:
        scores = self._scores([[stack.weight, stack.bias, stack.v] for stack in self._stacks])
        for number, stack in enumerate(self._stacks):
            for total, values in zip(self._sums[number], (stack.weight, stack.bias, stack.v), strict=True):
                total += values
            finite = stack.table.isfinite().all(1) & stack.bias.isfinite()
            for place, group in enumerate(stack.groups):
                used = finite[place, : stack.settings * stack.classes].view(stack.settings, stack.classes)
                for column, (task, good) in enumerate(zip(group.places, used.all(1).tolist(), strict=True)):
                    record = self._records[task]
                    iid, ood, loss, logits = scores[task]
                    if self._outputs:
                        record.logits = logits if record.logits is None or logits is None else record.logits + logits
                    if not good and record.diverged_at is None:
                        record.diverged_at = step
                    if record.diverged_at is not None:
                        continue
                    record.evaluations.append(LinearEvaluation(step, iid, ood, loss))
                    if record.best is None or iid > record.best.iid_accuracy:
                        record.best = record.evaluations[-1]
                        record.best_model = _model(stack, [stack.weight, stack.bias, stack.v], place, column)

    def _scores(self, weights: list[list[Tensor]]) -> dict[int, _Score]:
        """I.i.d. and o.o.d. accuracy, i.i.d. loss and logits of every task, by its place."""
        tables = [stack.table_of(of[0], of[2]) for stack, of in zip(self._stacks, weights, strict=True)]
        biases = [of[1] for of in weights]
        jobs = [partial(self._scores_on, members, tables, biases) for members in self._readers.values()]
        return {task: score for part in work(self._pool, jobs) for task, score in part.items()}

    def _scores_on(
        self, members: list[tuple[int, int]], tables: list[Tensor], biases: list[Tensor]
    ) -> dict[int, _Score]:
        """Scores of all groups that read the same features."""
        problem = self._stacks[members[0][0]].groups[members[0][1]].problem
        taps, units = self._stacks[members[0][0]].taps, self._stacks[members[0][0]].units
        images = torch.from_numpy(np.concatenate([problem.iid, problem.ood]))
        table = torch.cat([tables[number][place] for number, place in members], 1)
        bias = torch.cat([biases[number][place] for number, place in members])
        wide = bias.new_empty(len(images), len(bias))
        for start in range(0, len(images), ROWS):
            x = problem.views[0].index_select(0, images[start : start + ROWS].to(problem.views[0].device))
            torch.addmm(bias, x[:, -taps * units :].to(bias), table, out=wide[start : start + ROWS])
        labels = torch.from_numpy(problem.labels).to(biases[0].device)[images]
        held_out = len(problem.iid)
        scores: dict[int, _Score] = {}
        widths = [self._stacks[number].columns for number, _ in members]
        for (number, place), part in zip(members, wide.split(widths, 1), strict=True):  # type: ignore[no-untyped-call]
            stack = self._stacks[number]
            used = part[:, : stack.settings * stack.classes]
            logits = used.reshape(-1, stack.settings, stack.classes)
            target = labels[:held_out, None].expand(-1, stack.settings)
            losses = F.cross_entropy(logits[:held_out].permute(0, 2, 1), target, reduction="none").double().mean(0)
            stored = logits.to(torch.float16).to(torch.float32)  # as a run stores them
            right = (stored.argmax(2) == labels[:, None]).double()
            of_iid, of_ood = right[:held_out].mean(0).tolist(), right[held_out:].mean(0).tolist()
            for column, task in enumerate(stack.groups[place].places):
                kept = stored[:, column].cpu() if self._outputs else None
                scores[task] = of_iid[column], of_ood[column], float(losses[column]), kept
        return scores


def _model(stack: Stack, weights: list[Tensor], place: int, column: int) -> LinearModel:
    """A copy of a setting's part, on the processor."""
    weight, bias, v = weights
    columns = slice(column * stack.classes, (column + 1) * stack.classes)
    return LinearModel(
        weight[place, :, columns].t().cpu().clone(memory_format=torch.contiguous_format),
        bias[place, columns].cpu().clone(),
        v[place, :, :, column].cpu().clone(memory_format=torch.contiguous_format) if stack.adapt else None,
    )
