"""What a linear model is trained on: one split of a dataset's features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset, IntArray, Split
from ..data.random import generator
from ..data.sampling import batches
from ..errors import UserError

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Features of a dataset's images, and which of them to train on, to select on and to test on.

    Attributes:
        views: features of all images, each float16 or float32 (n, sum of ``widths``), the taps side by side. The first
            is of the evaluation view. Where there are more, they are of training views, and training reads from one of
            those, drawn for each image and step; else from the first.
        widths: of the taps; the last tap is the network's representation Φ.
        labels: class of each image, int64 (n,).
        train: images to train on, one array for each training domain.
        iid: held-out images of the training domains.
        iid_domains: index of the training domain of each of them, (len(iid),).
        ood: images of the test domain.
        classes: number of classes.
    """

    views: tuple[Tensor, ...]
    widths: tuple[int, ...]
    labels: IntArray
    train: tuple[IntArray, ...]
    iid: IntArray
    iid_domains: IntArray
    ood: IntArray
    classes: int

    def __post_init__(self) -> None:
        if not self.views or not self.widths:
            raise UserError("a linear model needs the features of at least one view and one tap")
        shape = (len(self.labels), sum(self.widths))
        for number, view in enumerate(self.views):
            if tuple(view.shape) != shape:
                raise UserError(f"the features of view {number} have the shape {tuple(view.shape)}, not {shape}")
            if view.dtype not in (torch.float16, torch.float32):
                raise UserError(f"the features of view {number} must be float16 or float32, not {view.dtype}")
        if not self.train or not all(len(part) for part in (*self.train, self.iid, self.ood)):
            raise UserError("there must be images to train on in every domain, to select on and to test on")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise UserError(f"labels must be from 0 to {self.classes - 1}")

    @classmethod
    def of(cls, views: Iterable[Tensor], widths: Iterable[int], data: Dataset, split: Split) -> Problem:
        """The problem of a split of ``data``, whose images all have features in each of the ``views``.

        Raises:
            UserError: the features do not fit the widths or the dataset.
        """
        return cls(
            views=tuple(views),
            widths=tuple(widths),
            labels=data.labels,
            train=split.train,
            iid=split.iid,
            iid_domains=split.iid_domains,
            ood=split.ood,
            classes=len(data.classes),
        )

    def taps(self, fit: str) -> tuple[int, int]:
        """How a fit reads the features: number of taps that are summed up, and units of Φ̃.

        Taps of one width w are summed, (taps, w). Taps of different widths are put side by side, (1, sum of widths). A
        probe reads the last, (1, its width).
        """
        if fit == "probe":
            return 1, self.widths[-1]
        return (len(self.widths), self.widths[0]) if len(set(self.widths)) == 1 else (1, sum(self.widths))

    def batches(self, batch: int, seed: int, first: int, last: int) -> tuple[IntArray, IntArray]:
        """The images of the steps from ``first`` to before ``last``, those of ``batch_indices``, and their views.

        Returns:
            Indices into the dataset and into ``views``, each (steps, domains × batch).
        """
        images = batches(self.train, batch, seed, first, last)
        views = np.zeros_like(images)
        if len(self.views) > 1:
            for step in range(first, last):
                drawn = generator("linear view", seed, step).integers(1, len(self.views), images.shape[1])
                views[step - first] = drawn
        return images, views
