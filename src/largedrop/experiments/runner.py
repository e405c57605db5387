"""Training many runs: linear fits together, others one by one or side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import CollapseError
from ..runs.run import Run
from ..training.features import FeatureCache
from ..training.loop import train
from .processes import train_side_by_side

__all__ = ["train_all"]


def train_all(
    tasks: list[tuple[Config, Path]],
    data: Dataset,
    device: torch.device,
    jobs: int = 1,
    *,
    progress: Callable[[float], None] | None = None,
    begin: Callable[[Config], None] | None = None,
    note: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Generator[tuple[Config, Run | CollapseError], None, None]:
    """Train every task (config and folder), and yield each as it ends; close the generator to end the processes.

    The arguments are those of ``compare``; with one task or one job, everything happens in this process. Linear fits
    come first and are trained together, in this process.

    Raises:
        UserError: a run said so.
        ProcessFailedError: a run's process died (with several jobs).
        Interrupted: ``stop`` said so.
    """
    report, announce, ask = progress or (lambda done: None), begin or (lambda config: None), stop or (lambda: False)
    noted: list[str] = []

    def tell(text: str) -> None:
        if not noted and note is not None:
            note(text)
        noted.append(text)

    return _all(tasks, data, device, jobs, report, announce, tell, ask)


def _all(
    tasks: list[tuple[Config, Path]],
    data: Dataset,
    device: torch.device,
    jobs: int,
    progress: Callable[[float], None],
    begin: Callable[[Config], None],
    note: Callable[[str], None],
    stop: Callable[[], bool],
) -> Generator[tuple[Config, Run | CollapseError], None, None]:
    linear = [task for task in tasks if task[0].fit != "all"]
    whole = [task for task in tasks if task[0].fit == "all"]
    if linear:
        from ..linear.runs import train_linear_runs

        views = open_views(data, device)
        yield from train_linear_runs(linear, data, views, progress=progress, begin=begin, note=note, stop=stop)
    if jobs > 1 and len(whole) > 1:
        yield from train_side_by_side(
            whole, data, device, min(jobs, len(whole)), progress=progress, begin=begin, note=note, stop=stop
        )
    elif whole:
        yield from _one_by_one(whole, data, device, progress, begin, note, stop)


def _one_by_one(
    tasks: list[tuple[Config, Path]],
    data: Dataset,
    device: torch.device,
    progress: Callable[[float], None],
    begin: Callable[[Config], None],
    note: Callable[[str], None],
    stop: Callable[[], bool],
) -> Generator[tuple[Config, Run | CollapseError], None, None]:
    views = open_views(data, device)
    if views.note:
        note(views.note)
    features = FeatureCache(views, progress)
    for config, folder in tasks:
        begin(config)
        try:
            yield config, train(config, data, folder, features=features, progress=progress, stop=stop)
        except CollapseError as error:
            yield config, error
