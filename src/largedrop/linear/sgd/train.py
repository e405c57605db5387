"""Linear fine-tuning and linear probing of many settings at once, by the paper's protocol (sections 3.2 and 4.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import Config
from ...reporter import SILENT, Reporter
from ...runtime import one_thread
from ...training.evaluation import mean_over_domains, scored
from ..problem import Problem
from .batches import Batches, work
from .group import Group, with_ones
from .result import LinearEvaluation, LinearModel, LinearResult

__all__ = ["train_linear"]

TOGETHER = 64
"""Approximate number of rows of a group's table, so that its weights and momentum fit into a core's second cache."""

IMAGES = 1024
"""Number of images in a batch of an evaluation."""

Fit = tuple[Problem, Config]


def train_linear(
    fits: Sequence[Fit],
    *,
    dtype: torch.dtype = torch.float32,
    keep_logits: bool = False,
    reporter: Reporter = SILENT,
) -> list[LinearResult]:
    """Train every setting by SGD with momentum and L2 decay, exactly as ``torch.optim.SGD`` does, on the processor.

    ``linear`` is equation 1: Φ̃ = Σ vᵢ ⊙ φᵢ, y = V Φ̃ + b with dropout on Φ̃ (section 4.3); where the taps differ in
    width, y = Σ Vᵢ (vᵢ ⊙ φᵢ) + b with dropout on the taps side by side. ``probe`` is y = V φ + b with dropout on the
    last tap φ. The loss is the cross-entropy, averaged over a batch of equal numbers from each training domain: the
    images of a fine-tuning with that seed at that step.

    Settings of one problem object, fit, seed, rate and schedule share batches and masks, and masks are shared by all
    problems. A mask is a function of (seed, step, rate), so no result depends on the other fits. Work is divided among
    ``torch.get_num_threads()`` threads, whose number changes no bit either.

    Args:
        fits: problem and config of each linear fit or probe; fits with one problem should share the object.
        dtype: type of weights and arithmetic, float32 or float64.
        keep_logits: whether to average the logits over the evaluations, for ensembles.
        reporter: receives the number of steps, one for each setting; asked every few steps whether to stop.

    Returns:
        One result for each fit, in their order.

    Raises:
        Interrupted: the reporter asks to stop.
    """
    schedules: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (_, setting) in enumerate(fits):
        schedules[setting.steps, setting.eval_every].append(index)
    results: dict[int, LinearResult] = {}
    threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for indices in schedules.values():
            trackers = _trackers(fits, indices, dtype)
            _train(trackers, pool, keep_logits, reporter)
            means = _scores(trackers, [tracker.group.table_of(tracker.means) for tracker in trackers], pool)
            for tracker, (scores, _) in zip(trackers, means, strict=True):
                results.update(tracker.results(scores))
    return [results[index] for index in range(len(fits))]


_Scores = tuple[list[dict[str, Any]], Tensor]
"""Scores of each setting of a group, fields of ``LinearEvaluation``, and logits of the held-out and the test images,
(images, settings, classes)."""


class _Tracker:
    """Collects the evaluations and models of a group's settings during training."""

    def __init__(self, group: Group, indices: list[int]) -> None:
        self.group, self.indices = group, indices
        self.evaluations: list[list[LinearEvaluation]] = [[] for _ in indices]
        self.best: list[tuple[LinearEvaluation, LinearModel] | None] = [None] * len(indices)
        self.diverged_at: list[int | None] = [None] * len(indices)
        self.sums = [torch.zeros_like(values) for values in group.weights]
        self.logits: Tensor | None = None

    def keep(self, step: int, scores: _Scores, keep_logits: bool) -> None:
        """Add an evaluation after ``step``, with its logits where ``keep_logits``."""
        of_settings, logits = scores
        for total, values in zip(self.sums, self.group.weights, strict=True):
            total += values
        if keep_logits:
            self.logits = logits if self.logits is None else self.logits.add_(logits)
        for index, finite in enumerate(self.group.finite()):
            if not finite and self.diverged_at[index] is None:
                self.diverged_at[index] = step
            if self.diverged_at[index] is not None:
                continue
            entry, best = LinearEvaluation(step, **of_settings[index]), self.best[index]
            self.evaluations[index].append(entry)
            selecting = self.group.settings[index].selecting
            if best is None or getattr(entry, selecting) > getattr(best[0], selecting):
                self.best[index] = entry, self.group.model(index, self.group.weights)

    @property
    def means(self) -> list[Tensor]:
        """Weights averaged over the evaluations."""
        return [total / len(self.group.settings[0].evaluations) for total in self.sums]

    def results(self, scores: list[dict[str, Any]]) -> Iterator[tuple[int, LinearResult]]:
        """The result of each fit, with its index; ``scores`` are of the mean weights."""
        means, held_out = self.means, len(self.group.problem.iid)
        logits = None if self.logits is None else self.logits / len(self.group.settings[0].evaluations)
        for index, (fit, setting) in enumerate(zip(self.indices, self.group.settings, strict=True)):
            best = self.best[index]
            yield (
                fit,
                LinearResult(
                    setting=setting,
                    evaluations=tuple(self.evaluations[index]),
                    best=best and best[0],
                    best_model=best and best[1],
                    last_model=self.group.model(index, self.group.weights),
                    mean_model=self.group.model(index, means),
                    mean=LinearEvaluation(setting.steps, **scores[index]),
                    diverged_at=self.diverged_at[index],
                    iid_logits=None if logits is None else logits[:held_out, index],
                    ood_logits=None if logits is None else logits[held_out:, index],
                ),
            )


def _trackers(fits: Sequence[Fit], indices: list[int], dtype: torch.dtype) -> list[_Tracker]:
    """Groups of the fits that share batches and masks, the largest first, so that threads end together."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index in indices:
        problem, setting = fits[index]
        groups[(id(problem), setting.seed, *setting.family_key)].append(index)
    trackers = []
    for members in groups.values():
        problem = fits[members[0]][0]
        parts = -(-len(members) // max(1, TOGETHER // problem.classes))
        for part in range(parts):
            chosen = members[part::parts]
            trackers.append(_Tracker(Group(problem, [fits[index][1] for index in chosen], dtype), chosen))
    return sorted(trackers, key=lambda tracker: tracker.group.table.numel(), reverse=True)


def _train(trackers: list[_Tracker], pool: Executor, keep_logits: bool, reporter: Reporter) -> None:
    """Take all steps of groups with one schedule, with its evaluations."""
    schedule = trackers[0].group.settings[0]
    batches = Batches([tracker.group for tracker in trackers])
    settings = sum(len(tracker.indices) for tracker in trackers)

    def take(group: Group, first: int, last: int) -> None:
        group.take(*batches.of(group), [group.settings[0].lr_factor(step) for step in range(first, last)])

    for before, after in pairwise((0, *schedule.evaluations)):
        for first in range(before, after, batches.together):
            last = min(first + batches.together, after)
            batches.read(first, last, pool)
            work(pool, [partial(take, tracker.group, first, last) for tracker in trackers])
            reporter.advance((last - first) * settings)
            reporter.raise_if_stopped(f"stopped after step {last} of {schedule.steps}")
        scores = _scores(trackers, [tracker.group.table for tracker in trackers], pool)
        for tracker, found in zip(trackers, scores, strict=True):
            tracker.keep(after, found, keep_logits)


def _scores(trackers: list[_Tracker], tables: list[Tensor], pool: Executor) -> list[_Scores]:
    """The scores of each group by a table; features are read once for all groups that share them."""
    readers: dict[tuple[int, str], list[int]] = defaultdict(list)
    for index, tracker in enumerate(trackers):
        readers[id(tracker.group.problem), tracker.group.settings[0].fit].append(index)
    found: dict[int, _Scores] = {}

    def score(indices: list[int]) -> None:
        groups = [trackers[index].group for index in indices]
        logits = _logits(groups, [tables[index] for index in indices])
        found.update({index: _scored(each, groups[0].problem) for index, each in zip(indices, logits, strict=True)})

    work(pool, [partial(score, indices) for indices in readers.values()])
    return [found[index] for index in range(len(trackers))]


def _logits(groups: list[Group], tables: list[Tensor]) -> list[Tensor]:
    """Logits of the held-out and the test images, of groups that read the same features."""
    problem, features = groups[0].problem, groups[0].features
    parts: list[list[Tensor]] = [[] for _ in groups]
    x = with_ones(IMAGES, features, tables[0].dtype)
    images = torch.from_numpy(np.concatenate([problem.iid, problem.ood]))
    for start in range(0, len(images), IMAGES):
        chosen = images[start : start + IMAGES]
        x[: len(chosen), :features] = problem.views[0].index_select(0, chosen)[:, -features:]
        for group, table, part in zip(groups, tables, parts, strict=True):
            part.append(group.logits(x[: len(chosen)], table))
    return [torch.cat(part) for part in parts]


def _scored(logits: Tensor, problem: Problem) -> _Scores:
    held_out = len(problem.iid)
    iid, ood = (torch.from_numpy(problem.labels[images])[:, None] for images in (problem.iid, problem.ood))
    target = iid.expand(-1, logits.shape[1])
    losses = F.cross_entropy(logits[:held_out].permute(0, 2, 1), target, reduction="none")
    stored = logits.to(torch.float16).to(torch.float32)  # as a run stores them
    predicted = stored.argmax(2)
    right = predicted[:held_out] == iid
    rows = scored(right.numpy(), (predicted[held_out:] == ood).numpy(), problem.labels, problem)
    more = zip(
        mean_over_domains(losses.numpy(), problem.iid_domains).tolist(), right.double().mean(0).tolist(), strict=True
    )
    of_settings = [
        {**row, "iid_loss": loss, "iid_accuracy_pooled": pooled} for row, (loss, pooled) in zip(rows, more, strict=True)
    ]
    return of_settings, stored
