"""Training many runs: linear fits together, others one by one or side by side."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.views.batches import Views, open_views
from ..errors import BusyError, CollapseError, RunError
from ..reporter import SILENT, Reporter
from ..runs.failure import read_failure, write_failure
from ..runs.run import Run
from ..training.batches import step_pixels
from ..training.features import FeatureCache
from ..training.loop import train
from .processes import train_side_by_side
from .tasks import Task, Tasks

__all__ = ["splits_of", "train_all"]


def splits_of(configs: Sequence[Config], data: Dataset) -> list[Split]:
    """The split of each config; equal splits are made once."""
    made = {key: config.split_of(data) for key, config in {each.split_key: each for each in configs}.items()}
    return [made[config.split_key] for config in configs]


def train_all(
    tasks: list[Task],
    data: Dataset,
    device: torch.device,
    jobs: int = 1,
    reporter: Reporter = SILENT,
    *,
    wait: bool = True,
    sharing: int = 1,
) -> Generator[tuple[Config, Run | RunError], None, None]:
    """Train every task (config and folder), and yield each as it ends; closing the generator ends the processes.

    Runs that other processes have, on this machine or another, are left to them. A run that another has given up is
    yielded with its error.

    The arguments are those of ``compare``; with one task or one job, everything happens in this process. Linear fits
    come first and are trained together, in this process.

    Args:
        wait: whether to wait for the runs that others have, and yield them as well.
        sharing: number of processes like this one that share its device, and so the memory.

    Raises:
        UserError: a run raised it.
        ProcessFailedError: a run's process died (with several jobs).
        Interrupted: the reporter asks to stop.
    """
    linear = [task for task in tasks if task[0].fit != "all"]
    whole = [task for task in tasks if task[0].fit == "all"]
    if linear:
        yield from _linear(
            Tasks(linear, reporter, wait=wait), data, open_views(data, device, reporter, sharing), reporter
        )
    if jobs > 1 and len(whole) > 1:
        yield from train_side_by_side(Tasks(whole, reporter, wait=wait), data, device, min(jobs, len(whole)), reporter)
    elif whole:
        first = whole[0][0]
        views = open_views(data, device, reporter, sharing, step_pixels(first, first.split_of(data)))
        yield from _one_by_one(Tasks(whole, reporter, wait=wait), data, FeatureCache(views, reporter), reporter)


def _linear(
    tasks: Tasks, data: Dataset, views: Views, reporter: Reporter
) -> Generator[tuple[Config, Run | RunError], None, None]:
    from ..linear.runs import train_linear_runs

    for first in tasks:
        chosen = dict([first, *iter(tasks.take, None)])
        for config, folder in list(chosen.items()):
            if (failure := read_failure(folder)) is not None:
                del chosen[config]
                yield config, failure[0]
        for config, outcome in train_linear_runs(list(chosen.items()), data, views, reporter):
            if isinstance(outcome, BusyError):
                tasks.put_back((config, chosen[config]))
                continue
            if isinstance(outcome, CollapseError):
                write_failure(chosen[config], outcome)
            yield config, outcome


def _one_by_one(
    tasks: Tasks, data: Dataset, features: FeatureCache, reporter: Reporter
) -> Generator[tuple[Config, Run | RunError], None, None]:
    for config, folder in tasks:
        reporter.begin(config)
        outcome: Run | RunError
        if (failure := read_failure(folder)) is not None:
            yield config, failure[0]
            continue
        try:
            outcome = train(config, data, folder, features=features, reporter=reporter)
        except BusyError:
            tasks.put_back((config, folder))
            continue
        except RunError as error:
            outcome = error.with_traceback(None)  # which would keep the run's network
        yield config, outcome
