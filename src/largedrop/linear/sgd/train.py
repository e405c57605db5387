"""Linear fine-tuning and linear probing of many settings at once, by the paper's protocol (sections 3.2 and 4.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import Config
from ...reporter import SILENT, Reporter
from ...runtime import one_thread
from ...training.evaluation import mean_over_domains
from ..problem import Problem
from .batches import Batches, work
from .group import Group, with_ones
from .result import LinearEvaluation, LinearModel, LinearResult

__all__ = ["train_linear"]


TOGETHER = 64
"""Rows of a group's table, about: its weights and their momentum fit into a core's second cache."""

IMAGES = 1024
"""Images at a time in an evaluation."""

Task = tuple[Problem, Config]


def train_linear(
    tasks: Sequence[Task],
    *,
    dtype: torch.dtype = torch.float32,
    outputs: bool = False,
    reporter: Reporter = SILENT,
) -> list[LinearResult]:
    """Train every setting by SGD with momentum and L2 decay, exactly as ``torch.optim.SGD`` does, on the processor.

    ``linear`` is equation 1: Φ̃ = Σ vᵢ ⊙ φᵢ, y = V Φ̃ + b with dropout on Φ̃ (section 4.3); where the taps differ in
    width, y = Σ Vᵢ (vᵢ ⊙ φᵢ) + b with dropout on the taps side by side. ``probe`` is y = V φ + b with dropout on the
    last tap φ. The loss is the cross-entropy, averaged over a batch of equal numbers from each training domain: the
    images that a full fine-tuning of that seed has at that step.

    Settings of one problem object, fit, seed, rate and schedule share batches and masks, and masks are shared by all
    problems. A mask is a function of (seed, step, rate), so no result depends on what is trained beside it. Work is
    divided among ``torch.get_num_threads()`` threads, and the number of threads changes no bit either.

    Args:
        tasks: problems and configs of linear fits or probes. A problem that occurs often should be one object.
        dtype: of weights and arithmetic, float32 or float64.
        outputs: whether to average the logits over the evaluations, for ensembles.
        reporter: told of the number of steps that were taken, one for each setting, and asked now and then whether to
            stop.

    Returns:
        One result for each task, in their order.

    Raises:
        Interrupted: the reporter said so.
    """
    schedules: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (_, setting) in enumerate(tasks):
        schedules[setting.steps, setting.eval_every].append(index)
    results: dict[int, LinearResult] = {}
    threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for indices in schedules.values():
            trainer = _Trainer(_grouped(tasks, indices, dtype), dtype, pool, outputs)
            trainer.run(reporter)
            results.update(trainer.results())
    return [results[index] for index in range(len(tasks))]


def _grouped(tasks: Sequence[Task], indices: list[int], dtype: torch.dtype) -> list[tuple[Group, list[_Record]]]:
    """Put what shares batches and masks into groups, the most work first, so that threads end together."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index in indices:
        problem, setting = tasks[index]
        groups[(id(problem), setting.seed, *setting.family_key)].append(index)
    found = []
    for members in groups.values():
        problem = tasks[members[0]][0]
        parts = -(-len(members) // max(1, TOGETHER // problem.classes))
        for part in range(parts):
            chosen = members[part::parts]
            found.append((Group(problem, [tasks[index][1] for index in chosen], dtype), [_Record(i) for i in chosen]))
    return sorted(found, key=lambda entry: entry[0].table.numel(), reverse=True)


@dataclass
class _Record:
    """What is kept of a setting while it is trained."""

    task: int
    evaluations: list[LinearEvaluation] = field(default_factory=list)
    best: LinearEvaluation | None = None
    best_model: LinearModel | None = None
    diverged_at: int | None = None
    logits: Tensor | None = None


_Scores = tuple[list[LinearEvaluation], Tensor]
"""Of each setting of a group, and their logits on the held-out and the test images, (images, settings, classes)."""


class _Trainer:
    """Groups with one schedule, from their first step to their results."""

    def __init__(
        self, groups: list[tuple[Group, list[_Record]]], dtype: torch.dtype, pool: Executor, outputs: bool
    ) -> None:
        self._groups, self._pool, self._outputs = groups, pool, outputs
        self._setting = groups[0][0].settings[0]
        self._batches = Batches([group for group, _ in groups], dtype)
        self._sums = [[torch.zeros_like(values) for values in group.weights] for group, _ in groups]

    def run(self, reporter: Reporter) -> None:
        """Take all steps, and evaluate where the setting says."""
        settings = sum(len(records) for _, records in self._groups)
        for before, after in pairwise((0, *self._setting.evaluations)):
            for first in range(before, after, self._batches.together):
                last = min(first + self._batches.together, after)
                self._batches.read(first, last, self._pool)
                work(self._pool, [partial(self._take, group, first, last) for group, _ in self._groups])
                reporter.advance((last - first) * settings)
                reporter.raise_if_stopped(f"stopped after step {last} of {self._setting.steps}")
            self._evaluate(after)

    def _take(self, group: Group, first: int, last: int) -> None:
        factors = [group.settings[0].lr_factor(step) for step in range(first, last)]
        group.take(*self._batches.of(group), factors)

    def results(self) -> dict[int, LinearResult]:
        """By the task's index."""
        count = len(self._setting.evaluations)
        means = [[total / count for total in sums] for sums in self._sums]
        tables = [group.table_of(weights) for (group, _), weights in zip(self._groups, means, strict=True)]
        found = {}
        for number, (scores, _) in self._scores(tables, self._setting.steps).items():
            group, records = self._groups[number]
            held_out = len(group.problem.iid)
            for place, record in enumerate(records):
                logits = None if record.logits is None else record.logits / count
                found[record.task] = LinearResult(
                    setting=group.settings[place],
                    evaluations=tuple(record.evaluations),
                    best=record.best,
                    best_model=record.best_model,
                    last_model=group.model(place, group.weights),
                    mean_model=group.model(place, means[number]),
                    mean=scores[place],
                    diverged_at=record.diverged_at,
                    iid_logits=None if logits is None else logits[:held_out],
                    ood_logits=None if logits is None else logits[held_out:],
                )
        return found

    def _evaluate(self, step: int) -> None:
        for number, (scores, logits) in self._scores([group.table for group, _ in self._groups], step).items():
            group, records = self._groups[number]
            for total, values in zip(self._sums[number], group.weights, strict=True):
                total += values
            for place, (record, finite) in enumerate(zip(records, group.finite(), strict=True)):
                if self._outputs:
                    of_setting = logits[:, place]
                    record.logits = of_setting.clone() if record.logits is None else record.logits + of_setting
                if not finite and record.diverged_at is None:
                    record.diverged_at = step
                if record.diverged_at is not None:
                    continue
                record.evaluations.append(scores[place])
                if record.best is None or scores[place].iid_accuracy > record.best.iid_accuracy:
                    record.best, record.best_model = scores[place], group.model(place, group.weights)

    def _scores(self, tables: list[Tensor], step: int) -> dict[int, _Scores]:
        """Of every group by a table, by the group's number."""
        readers: dict[tuple[int, str], list[int]] = defaultdict(list)
        for number, (group, _) in enumerate(self._groups):
            readers[id(group.problem), group.settings[0].fit].append(number)
        found: dict[int, _Scores] = {}
        work(self._pool, [partial(self._score, numbers, tables, step, found) for numbers in readers.values()])
        return found

    def _score(self, numbers: list[int], tables: list[Tensor], step: int, found: dict[int, _Scores]) -> None:
        """Write the scores of all groups that read the same features."""
        groups = [self._groups[number][0] for number in numbers]
        problem, features, dtype = groups[0].problem, groups[0].features, tables[0].dtype
        images = torch.from_numpy(np.concatenate([problem.iid, problem.ood]))
        parts: list[list[Tensor]] = [[] for _ in groups]
        x = with_ones(IMAGES, features, dtype)
        for chosen in images.split(IMAGES):  # type: ignore[no-untyped-call]
            x[: len(chosen), :features] = problem.views[0].index_select(0, chosen)[:, -features:]
            for number, group, outputs in zip(numbers, groups, parts, strict=True):
                outputs.append(group.logits(x[: len(chosen)], tables[number]))
        for number, outputs in zip(numbers, parts, strict=True):
            found[number] = _scored(torch.cat(outputs), problem, step)


def _scored(logits: Tensor, problem: Problem, step: int) -> _Scores:
    held_out = len(problem.iid)
    iid, ood = (torch.from_numpy(problem.labels[images])[:, None] for images in (problem.iid, problem.ood))
    target = iid.expand(-1, logits.shape[1])
    losses = F.cross_entropy(logits[:held_out].permute(0, 2, 1), target, reduction="none")
    stored = logits.to(torch.float16).to(torch.float32)  # as a run stores them
    right = stored.argmax(2)
    columns = zip(
        mean_over_domains((right[:held_out] == iid).numpy(), problem.iid_domains).tolist(),
        (right[held_out:] == ood).double().mean(0).tolist(),
        mean_over_domains(losses.numpy(), problem.iid_domains).tolist(),
        strict=True,
    )
    return [LinearEvaluation(step, *scores) for scores in columns], stored
