"""The batches of a run's steps, on a GPU made ahead of them where that takes the processor time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import torch
from torch import Tensor

from ..config import Config
from ..data.ahead import in_order
from ..data.dataset import Dataset, Split
from ..data.sampling import batch_indices, classes_of
from ..data.views.batches import HostViews, InputSpec, ResidentViews, Views
from ..errors import UserError
from ..fast_paths import FastPaths, fast_paths

__all__ = ["saved_first", "step_pixels", "training_batches", "views_and_paths"]


def step_pixels(config: Config, split: Split) -> int:
    """Pixels of the images of a training step, by which ``fast_paths`` chooses."""
    return config.batch * len(split.train) * config.size**2


def views_and_paths(views: Views, config: Config, split: Split, recordable: bool) -> tuple[Views, FastPaths]:
    """A run's views and fast paths: the best set of those that it can take. Where it is better off without the images
    in the GPU's memory, where other runs of the process have them, its views are made on the host.

    Args:
        recordable: whether its objective's steps can be recorded.
    """
    without = ["resident"] * isinstance(views, HostViews) + ["recorded"] * (not recordable)
    paths = fast_paths(views.device, step_pixels(config, split), without)
    if isinstance(views, ResidentViews) and not paths.resident:
        views = HostViews(views.data, views.device)
    return views, paths


def training_batches(
    config: Config, data: Dataset, split: Split, views: Views, spec: InputSpec, steps: range
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """The inputs of each step, as ``views`` makes them, and their labels, int64 (n,); close the iterator to stop early.

    They are functions of the seed and the step, so that how far ahead they are made changes nothing.

    Args:
        steps: numbers of the steps, from 0.
    """
    balanced = classes_of(split.train, data.labels) if config.balance else None

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = batch_indices(split.train, config.batch, config.seed, step, balanced)
        return views.inputs(chosen, spec, config.seed, step), torch.from_numpy(data.labels[chosen])

    if not views.ahead:
        yield from map(batch, steps)
        return
    with closing(in_order(batch, steps, views.ahead, workers=1)) as made:
        yield from made


def saved_first(batches: Iterable[tuple[Tensor, Tensor]], save: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
    """``batches``; where an image of the next is damaged or gone, the steps up to there are saved first."""
    try:
        yield from batches
    except UserError:
        save()
        raise
