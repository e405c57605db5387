"""Nearest neighbours among features, and labels that they contradict; in blocks, so that memory is not n²."""

from __future__ import annotations

import math
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

_EXACT = 40_000
"""Rows up to which each is compared with all: 17 seconds of a processor core."""

_NEAR = 32
"""Cells near a row, with whose rows it is compared."""

_DRAWN, _ROUNDS = 32, 8
"""Rows drawn for each cell's centre, and rounds of k-means on them."""

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

    Of up to 40,000 rows they are exact. Of more, rows are first put into cells (spherical k-means), and each is
    compared with those in the 32 cells nearest to it alone: what is very similar is found, and of the rest most
    (docs/check.md).

    Args:
        rows: rows of length 1, float16 or float32 (n, d), on the device to compute on.
        count: how many; n − 1 where there are no more.
        others: the rows to compare with, in the same order, where they are not the same: (n, d).
        reporter: receives n.
    """
    others = rows if others is None else others
    total = len(rows)
    count = max(0, min(count, total - 1))
    best = torch.full((total, count), -torch.inf, device=rows.device)
    who = torch.zeros((total, count), dtype=torch.int64, device=rows.device)
    everything = torch.arange(total, device=rows.device)

    def compare(mine: Tensor, candidates: Tensor, work: float) -> None:
        for some in torch.split(mine, _ROWS):
            block = rows[some].float()
            for part in torch.split(candidates, _COLUMNS):
                found = block @ others[part].float().T
                place = torch.searchsorted(part, some).clamp_max(len(part) - 1)
                itself = part[place] == some
                found[itself, place[itself]] = -torch.inf
                top, columns = found.topk(min(count, found.shape[1]), dim=1)
                best[some], order = torch.cat([best[some], top], dim=1).topk(count, dim=1)
                who[some] = torch.cat([who[some], part[columns]], dim=1).gather(1, order)
            reporter.advance(work * len(some))

    if total <= _EXACT:
        compare(everything, everything, 1.0)
    else:
        for mine, candidates in _cells(rows, others):
            compare(mine, candidates, 1 / _NEAR)
        few = best.isinf().any(1).nonzero()[:, 0]
        best[few] = -torch.inf
        compare(few, everything, 0.0)
    return Neighbours(who.cpu(), best.cpu())


def _cells(rows: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each cell the rows that it is near to, and the others that are in it: indices, ascending."""
    cells = max(_NEAR, 2 * math.isqrt(len(rows)))
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: _DRAWN * cells]
    sample = rows[drawn.to(rows.device)].float()
    centres = sample[:cells].clone()
    for _ in range(_ROUNDS):
        of = _cells_of(sample, centres, 1)[:, 0].long()
        sums = torch.zeros_like(centres).index_add_(0, of, sample)
        there = sums.any(1)
        centres[there] = normalize(sums[there])
    near, inside = (_members(_cells_of(each, centres, count), cells) for each, count in ((rows, _NEAR), (others, 1)))
    for mine, members in zip(near, inside, strict=True):
        if len(members):
            yield mine, members


def _cells_of(rows: Tensor, centres: Tensor, count: int) -> Tensor:
    """The cells whose centres are most similar to each row, int16 (n, count)."""
    found = [(block.float() @ centres.T).topk(count, dim=1).indices.short() for block in torch.split(rows, _ROWS)]
    return torch.cat(found)


def _members(cells_of: Tensor, cells: int) -> tuple[Tensor, ...]:
    """The indices of the rows that have each cell among theirs, ascending."""
    flat = cells_of.flatten()
    rows = flat.argsort(stable=True).div_(cells_of.shape[1], rounding_mode="floor")
    return torch.split(rows, torch.bincount(flat.int(), minlength=cells).tolist())


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
