"""Nearest neighbours among features, and labels that they contradict; in blocks, so that memory is not n²."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..reporter import SILENT, Reporter

__all__ = ["Axes", "Doubts", "Neighbours", "doubts", "nearest", "principal_axes", "projected"]

_ROWS, _COLUMNS = 1024, 8192
"""Rows and columns of a block of similarities: 32 MiB."""

_WIDTH = 256
"""Principal axes that similarities are computed on; with all 1,280 of a network, copies are found no better."""

_RIDGE = 0.03
"""Penalty of the linear heads, in mean variances of a feature; between 0.003 and 0.3 little changes."""

Matrix = npt.NDArray[Any]
"""Features, (n, d), any float type; may be memory-mapped, since it is read in blocks."""


@dataclass(frozen=True, eq=False)
class Axes:
    """Principal axes of features.

    Attributes:
        mean: mean feature, (d,).
        vectors: axes, one a column, by increasing spread, (d, d).
        squares: sum over the images of the squared coordinates on each axis, (d,).
    """

    mean: Tensor
    vectors: Tensor
    squares: Tensor


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The rows that are most similar to each row, itself excluded, the most similar first.

    Attributes:
        indices: indices of their neighbours, int64 (n, k), on the processor.
        values: scalar products with them, float32 (n, k), on the processor.
    """

    indices: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Doubts:
    """How much each image's features speak against its label.

    Attributes:
        margins: score of the best other class minus that of the label, by a linear head that was fitted without the
            image; scores are about 0 to 1, (n,).
        others: index of that other class, (n,).
    """

    margins: Tensor
    others: Tensor


def principal_axes(features: Matrix) -> Axes:
    """The principal axes of ``features``, in float64."""
    width = features.shape[1]
    mean = torch.zeros(width, dtype=torch.float64)
    for _, block in _blocks(features):
        mean += block.sum(0, dtype=torch.float64) / len(features)
    products = torch.zeros((width, width), dtype=torch.float64)
    for _, block in _blocks(features, mean.float()):
        products += (block.T @ block).double()
    squares, vectors = torch.linalg.eigh(products)
    return Axes(mean, vectors, squares.clamp_min(0))


def projected(features: Matrix, axes: Axes) -> Tensor:
    """Centred features on the widest axes, each row of length 1, float16 (n, at most 256): 300 MB for DomainNet."""
    vectors = axes.vectors[:, -_WIDTH:].float()
    rows = torch.empty((len(features), vectors.shape[1]), dtype=torch.float16)
    for at, block in _blocks(features, axes.mean.float()):
        rows[at] = normalize(block @ vectors).half()
    return rows


def nearest(rows: Tensor, count: int, others: Tensor | None = None, reporter: Reporter = SILENT) -> Neighbours:
    """The rows that are most similar to each row, itself excluded, the most similar first.

    Args:
        rows: rows of length 1, float16 or float32 (n, d), on the device to compute on.
        count: how many; n − 1 where there are no more.
        others: the rows to compare with, in the same order, where they are not the same: (n, d).
        reporter: receives n.
    """
    others = rows if others is None else others
    total = len(rows)
    count = max(0, min(count, total - 1))
    indices, values = torch.empty((total, count), dtype=torch.int64), torch.empty((total, count))
    for start in range(0, total if count else 0, _ROWS):
        block = rows[start : start + _ROWS].float()
        here = torch.arange(start, start + len(block), device=rows.device)
        best = torch.full((len(block), count), -torch.inf, device=rows.device)
        who = torch.zeros((len(block), count), dtype=torch.int64, device=rows.device)
        for left in range(0, total, _COLUMNS):
            found = block @ others[left : left + _COLUMNS].float().T
            itself = (here >= left) & (here < left + found.shape[1])
            found[itself, here[itself] - left] = -torch.inf
            top, columns = found.topk(min(count, found.shape[1]), dim=1)
            best, order = torch.cat([best, top], dim=1).topk(count, dim=1)
            who = torch.cat([who, columns + left], dim=1).gather(1, order)
        indices[start : start + len(block)], values[start : start + len(block)] = who.cpu(), best.cpu()
        reporter.advance(len(block))
    return Neighbours(indices, values)


def doubts(features: Matrix, labels: npt.NDArray[np.int64], classes: int, axes: Axes) -> Doubts:
    """How a linear head that has not seen an image scores its label, against the best other class.

    The head is ridge regression on the classes' indicators, whose predictions without each image in turn follow from
    one fit (Cook and Weisberg, Residuals and Influence in Regression, 1982, section 2.2):
    (fitted − leverage · observed) / (1 − leverage).

    Args:
        features: features, (n, d).
        labels: class of each image, (n,).
        classes: number of classes.
        axes: ``principal_axes`` of the features.
    """
    total, width = features.shape
    given = torch.from_numpy(labels)
    mean = axes.mean.float()
    sums = torch.zeros((width, classes), dtype=torch.float64)
    for at, block in _blocks(features, mean):
        sums += (block.T @ one_hot(given[at], classes).float()).double()
    shrunk = 1 / (axes.squares + _RIDGE * axes.squares.mean().clamp_min(1e-12))
    weights = ((axes.vectors * shrunk) @ (axes.vectors.T @ sums)).float()
    scaled = (axes.vectors * shrunk.sqrt()).float()
    shares = torch.bincount(given, minlength=classes) / total
    margins, others = torch.empty(total), torch.empty(total, dtype=torch.int64)
    for at, block in _blocks(features, mean):
        leverage = (1 / total + (block @ scaled).square().sum(1, keepdim=True)).clamp_max(1 - 1e-4)
        observed = one_hot(given[at], classes).float()
        scores = (block @ weights + shares - leverage * observed) / (1 - leverage)
        own = scores.gather(1, given[at, None])
        best, other = scores.scatter(1, given[at, None], -torch.inf).max(1)
        margins[at], others[at] = best - own[:, 0], other
    return Doubts(margins, others)


def _blocks(features: Matrix, mean: Tensor | None = None, size: int = 4096) -> Iterator[tuple[slice, Tensor]]:
    """Rows of ``features`` and which they are, in float32, less ``mean``."""
    for start in range(0, len(features), size):
        block = torch.from_numpy(np.asarray(features[start : start + size], dtype=np.float32))
        yield slice(start, start + len(block)), block if mean is None else block - mean
