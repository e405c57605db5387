"""The batches of a run's steps, on a GPU made ahead of them where that takes the processor time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from ..config import Config
from ..data.ahead import in_order
from ..data.dataset import Dataset, Split
from ..data.sampling import batch_indices, classes_of
from ..data.views.batches import InputSpec, Views

__all__ = ["training_batches"]


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
