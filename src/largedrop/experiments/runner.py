"""Training many runs: linear fits together, others one by one or side by side."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.views.batches import open_views
from ..errors import RunError
from ..reporter import SILENT, Reporter
from ..runs.run import Run
from ..training.features import FeatureCache
from ..training.loop import train
from .processes import train_side_by_side

__all__ = ["splits_of", "train_all"]


def splits_of(configs: Sequence[Config], data: Dataset) -> list[Split]:
    """The split of each config; equal splits are made once."""
    made = {key: config.split_of(data) for key, config in {each.split_key: each for each in configs}.items()}
    return [made[config.split_key] for config in configs]


def train_all(
    tasks: list[tuple[Config, Path]],
    data: Dataset,
    device: torch.device,
    jobs: int = 1,
    reporter: Reporter = SILENT,
) -> Generator[tuple[Config, Run | RunError], None, None]:
    """Train every task (config and folder), and yield each as it ends; closing the generator ends the processes.

    The arguments are those of ``compare``; with one task or one job, everything happens in this process. Linear fits
    come first and are trained together, in this process.

    Raises:
        UserError: a run raised it.
        ProcessFailedError: a run's process died (with several jobs).
        Interrupted: the reporter asks to stop.
    """
    linear = [task for task in tasks if task[0].fit != "all"]
    whole = [task for task in tasks if task[0].fit == "all"]
    if linear:
        from ..linear.runs import train_linear_runs

        yield from train_linear_runs(linear, data, open_views(data, device, reporter), reporter)
    if jobs > 1 and len(whole) > 1:
        yield from train_side_by_side(whole, data, device, min(jobs, len(whole)), reporter)
    elif whole:
        yield from _one_by_one(whole, data, device, reporter)


def _one_by_one(
    tasks: list[tuple[Config, Path]], data: Dataset, device: torch.device, reporter: Reporter
) -> Generator[tuple[Config, Run | RunError], None, None]:
    features = FeatureCache(open_views(data, device, reporter), reporter)
    for config, folder in tasks:
        reporter.begin(config)
        outcome: Run | RunError
        try:
            outcome = train(config, data, folder, features=features, reporter=reporter)
        except RunError as error:
            outcome = error.with_traceback(None)  # which would keep the run's network
        yield config, outcome
