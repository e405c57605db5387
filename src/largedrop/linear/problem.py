"""The problem of a linear model: one split of a dataset's features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset, IntArray, Split
from ..data.random import generator
from ..data.sampling import Classes, batches, classes_of
from ..errors import UserError

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Features of a dataset's images and their split.

    Attributes:
        views: features of all images in each view, float16 or float32 (n, sum of ``widths``), the taps concatenated.
            The first view is the evaluation view; where there are more, training reads one of the others, drawn for
            each image and step.
        widths: number of features of each tap; the last tap is the network's representation Φ.
        labels: class of each image, int64 (n,).
        train: indices of the training images, one array for each training domain.
        iid: indices of the held-out images of all training domains, (n_iid,).
        iid_domains: index of the training domain of each held-out image, (n_iid,).
        ood: indices of the images of the test domains, (n_ood,).
        ood_domains: index into ``test_domains`` of each of them, (n_ood,).
        test_domains: names of the test domains.
        classes: number of classes.
    """

    views: tuple[Tensor, ...]
    widths: tuple[int, ...]
    labels: IntArray
    train: tuple[IntArray, ...]
    iid: IntArray
    iid_domains: IntArray
    ood: IntArray
    ood_domains: IntArray
    test_domains: tuple[str, ...]
    classes: int

    def __post_init__(self) -> None:
        if not self.views or not self.widths:
            raise UserError("a linear problem must have features of at least one view and one tap")
        shape = (len(self.labels), sum(self.widths))
        for number, view in enumerate(self.views):
            if tuple(view.shape) != shape:
                raise UserError(f"the features of view {number} have the shape {tuple(view.shape)}, not {shape}")
            if view.dtype not in (torch.float16, torch.float32):
                raise UserError(f"the features of view {number} must be float16 or float32, not {view.dtype}")
        tested = {*self.ood_domains.tolist()} == {*range(len(self.test_domains))}
        if not (self.train and all(map(len, (*self.train, self.iid))) and tested):
            raise UserError("there must be training images in every domain, held-out images and test images")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise UserError(f"labels must be from 0 to {self.classes - 1}")

    @classmethod
    def of(cls, views: Iterable[Tensor], widths: Iterable[int], data: Dataset, split: Split) -> Problem:
        """The problem of a split of ``data``, with features of all its images in each of ``views``.

        Raises:
            UserError: the features' shapes do not match the widths or the dataset.
        """
        return cls(
            views=tuple(views),
            widths=tuple(widths),
            labels=data.labels,
            train=split.train,
            iid=split.iid,
            iid_domains=split.iid_domains,
            ood=split.ood,
            ood_domains=split.ood_domains,
            test_domains=split.test_domains,
            classes=len(data.classes),
        )

    def taps(self, fit: str) -> tuple[int, int]:
        """Number of taps that a fit sums, and units of Φ̃.

        Taps of one width w are summed: (taps, w). Taps of different widths are concatenated: (1, sum of widths). A
        probe reads the last tap: (1, width).
        """
        if fit == "probe":
            return 1, self.widths[-1]
        return (len(self.widths), self.widths[0]) if len(set(self.widths)) == 1 else (1, sum(self.widths))

    @cached_property
    def _classes(self) -> Classes:
        return classes_of(self.train, self.labels)

    def batches(self, batch: int, seed: int, first: int, last: int, balance: bool = False) -> tuple[IntArray, IntArray]:
        """The images of the steps ``first`` to ``last`` − 1, as in ``batch_indices``, and their views.

        Returns:
            Indices into the dataset and into ``views``, each (steps, domains × batch).
        """
        images = batches(self.train, batch, seed, first, last, self._classes if balance else None)
        views = np.zeros_like(images)
        if len(self.views) > 1:
            for step in range(first, last):
                drawn = generator("linear view", seed, step).integers(1, len(self.views), images.shape[1])
                views[step - first] = drawn
        return images, views
