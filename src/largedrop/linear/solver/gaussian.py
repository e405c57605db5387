"""Cross-entropy expected under Gaussian logits, and its gradient, compiled: the inner loop of the converged solver.

Importing this module imports numba. What it compiles when first called is kept next to this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from torch import Tensor

from ...data.random import torch_seed
from ...errors import UserError

__all__ = ["JITTER", "TINY", "antithetic_normals", "contrasts", "expected_logits"]


Function = TypeVar("Function", bound=Callable[..., Any])


JITTER = 1e-6
"""Of its largest diagonal entry, added to a logit covariance's diagonal before it is factorised."""

TINY = 1e-12
"""Added as well: a head that is all zero has no covariance."""


def _compiled(function: Function) -> Function:
    """Without the lock of the interpreter, and with sums in any order (but the same on every call)."""
    return cast(Function, numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))


def contrasts(classes: int) -> Tensor:
    """An orthonormal basis of what softmax sees of logits: (classes − 1, classes), rows that sum to 0, float64.

    Raises:
        UserError: there are fewer than two classes.
    """
    if classes < 2:
        raise UserError(f"a head needs two classes or more, not {classes}")
    basis = torch.zeros(classes - 1, classes, dtype=torch.float64)
    for row in range(classes - 1):
        basis[row, : row + 1] = 1
        basis[row, row + 1] = -(row + 1)
    return basis / basis.square().sum(1, keepdim=True).sqrt()


def antithetic_normals(examples: int, dimensions: int, samples: int, seed: int) -> Tensor:
    """Half of ``samples`` standard normals for each example, (examples, dimensions, samples / 2), float32.

    The other half are their negatives.

    Raises:
        UserError: the samples are odd or fewer than two.
    """
    if samples % 2 or samples < 2:
        raise UserError(f"sampled logits come in pairs: their number must be even and 2 or more, not {samples}")
    generator = torch.Generator().manual_seed(torch_seed("expected normals", seed))
    return torch.randn(examples, dimensions, samples // 2, generator=generator)


def expected_logits(
    mean: Tensor, covariance: Tensor, labels: Tensor, normals: Tensor, basis: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy expected under Gaussian logits, in contrast coordinates, with its gradient written out.

    In one pass over the examples, on one core.

    Args:
        mean: of the logits' contrasts, (k, n), k = classes − 1; float32 or float64, as all of them are.
        covariance: its lower triangle, row by row, (k(k+1)/2, n).
        labels: (n,), int64.
        normals: of ``antithetic_normals``, (n, k, half the samples).
        basis: of ``contrasts``, (k, classes).

    Returns:
        The loss (n,), its gradient by the mean (k, n) and by the covariance's lower triangle (k(k+1)/2, n), in which
        an entry off the diagonal counts for both.
    """
    loss, by_mean, by_covariance = torch.empty_like(mean[0]), torch.empty_like(mean), torch.empty_like(covariance)
    centre, spread, targets, drawn, axes = (
        each.contiguous().numpy() for each in (mean, covariance, labels, normals, basis)
    )
    kind = centre.dtype
    series = np.array([1 / math.factorial(power) for power in reversed(range(14))], kind)
    halves = np.array([0.5**power for power in range(128)], kind)
    constants = np.array([1 / math.log(2), math.log(2), -87.0, JITTER, TINY], kind)
    found = loss.numpy(), by_mean.numpy(), by_covariance.numpy()
    _expected(centre, spread, targets, drawn, axes, series, halves, constants, *found)
    return loss, by_mean, by_covariance


@_compiled
def _expected(
    mean: Any,
    covariance: Any,
    labels: Any,
    normals: Any,
    basis: Any,
    series: Any,
    halves: Any,
    constants: Any,
    loss: Any,
    by_mean: Any,
    by_covariance: Any,
) -> None:
    size, classes = basis.shape
    half = normals.shape[2]
    factor = np.zeros((size, size), mean.dtype)
    slope = np.zeros((size, size), mean.dtype)
    spread = np.zeros((classes, size), mean.dtype)
    error = np.zeros(classes, mean.dtype)
    centre = np.zeros(classes, mean.dtype)
    shift = np.zeros((classes, half), mean.dtype)
    up = np.zeros((classes, half), mean.dtype)
    down = np.zeros((classes, half), mean.dtype)
    room = np.zeros((2, half), mean.dtype)
    for i in range(len(labels)):
        _factorise(covariance[:, i], factor, constants)
        for c in range(classes):
            centre[c] = 0
            for a in range(size):
                centre[c] += basis[a, c] * mean[a, i]
            for b in range(size):
                total = constants[0] * 0
                for a in range(b, size):
                    total += basis[a, c] * factor[a, b]
                spread[c, b] = total
            shift[c] = 0
            for b in range(size):
                for j in range(half):
                    shift[c, j] += spread[c, b] * normals[i, b, j]
            for j in range(half):
                up[c, j] = centre[c] + shift[c, j]
                down[c, j] = centre[c] - shift[c, j]
        whole = _softmax(up, room, series, halves, constants) + _softmax(down, room, series, halves, constants)
        loss[i] = whole / (2 * half) - centre[labels[i]]
        for c in range(classes):
            total = constants[0] * 0
            for j in range(half):
                total += up[c, j] + down[c, j]
                shift[c, j] = up[c, j] - down[c, j]
            error[c] = total / (2 * half)
            for b in range(size):
                total = constants[0] * 0
                for j in range(half):
                    total += shift[c, j] * normals[i, b, j]
                spread[c, b] = total / (2 * half)
        error[labels[i]] -= 1
        for a in range(size):
            by_mean[a, i] = 0
            for c in range(classes):
                by_mean[a, i] += basis[a, c] * error[c]
            for b in range(a + 1):
                slope[a, b] = 0
                for c in range(classes):
                    slope[a, b] += basis[a, c] * spread[c, b]
        _unfactorise(slope, factor)
        place = 0
        for a in range(size):
            for b in range(a + 1):
                by_covariance[place, i] = slope[a, b]
                place += 1


@_compiled
def _softmax(logits: Any, room: Any, series: Any, halves: Any, constants: Any) -> Any:
    """Turn logits (classes, half) into probabilities; returns the sum of their log-partition functions."""
    classes, half = logits.shape
    peak, mass = room
    for j in range(half):
        peak[j] = logits[0, j]
        mass[j] = 0
    for c in range(1, classes):
        for j in range(half):
            peak[j] = max(peak[j], logits[c, j])
    for c in range(classes):
        for j in range(half):
            # exp(x) = 2^-n · exp(f), f in [0, log 2): a Taylor series that LLVM turns into vectors, as it cannot exp.
            x = max(logits[c, j] - peak[j], constants[2]) * constants[0]
            floor = np.floor(x)
            f = (x - floor) * constants[1]
            value = series[0]
            for term in range(1, 14):
                value = value * f + series[term]
            value *= halves[int(-floor)]
            logits[c, j] = value
            mass[j] += value
    total = constants[0] * 0
    for j in range(half):
        total += np.log(mass[j]) + peak[j]
        mass[j] = 1 / mass[j]
    for c in range(classes):
        for j in range(half):
            logits[c, j] *= mass[j]
    return total


@_compiled
def _factorise(triangle: Any, factor: Any, constants: Any) -> None:
    """Cholesky factor of a matrix given by its lower triangle, row by row."""
    size = len(factor)
    peak = triangle[0]
    for a in range(1, size):
        peak = max(peak, triangle[a * (a + 3) // 2])
    jitter = constants[3] * peak + constants[4]
    place = 0
    for a in range(size):
        for b in range(a + 1):
            value = triangle[place]
            for c in range(b):
                value -= factor[a, c] * factor[b, c]
            factor[a, b] = value / factor[b, b] if b < a else np.sqrt(max(value + jitter, jitter))
            place += 1


@_compiled
def _unfactorise(slope: Any, factor: Any) -> None:
    """The gradient by a matrix's lower triangle from that by its factor, in place: ``_factorise`` run backwards."""
    for row in range(len(factor) - 1, -1, -1):
        for column in range(row, -1, -1):
            slope[row, column] /= factor[column, column]
            if column == row:
                slope[row, row] *= 0.5
            else:
                slope[column, column] -= slope[row, column] * factor[row, column]
            here = slope[row, column]
            for before in range(column):
                slope[row, before] -= here * factor[column, before]
                slope[column, before] -= here * factor[row, before]
