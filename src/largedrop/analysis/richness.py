"""Richness and redundancy of a representation: its rank, and accuracies of linear models on subsets of its units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.dataset import IntArray
from ..data.random import generator
from ..errors import UserError
from ..runs.estimate import Estimate
from ..training.evaluation import accuracy

__all__ = ["PROBE_SHARES", "SHARES", "Richness", "measure_richness"]

FloatArray = npt.NDArray[np.float64]

Labelled = tuple[npt.NDArray[np.floating], IntArray]
"""Representations, (n, units), and labels, (n,), of n images."""

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
"""Shares of the units that are kept in the curves."""

PROBE_SHARES = (0.1, 0.5)
"""Shares of the units in the subsets on which probes are trained."""

FALL = 0.01
"""Loss of accuracy, as a fraction, up to which units count as removable."""

_PENALTIES = 10.0 ** np.arange(-5.0, 2.01, 0.5)
"""Candidate ridge penalties, over the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True)
class Richness:
    """The measures of one representation on one set of images; accuracies are fractions.

    Attributes:
        images: number of images; ranks are at most ``images`` − 1.
        units: width of the representation.
        constant: number of units with one value on all images, such as dead ones.
        singular_values: singular values of the centred representation, descending.
        effective_rank: ``effective_rank`` of the singular values.
        participation_ratio: ``participation_ratio`` of the singular values.
        correlation: ``mean_correlation`` of the units.
        accuracy: accuracy of the run's own head on all units.
        shares: shares of the units that ``kept_random`` and ``kept_smallest`` keep.
        kept_random: accuracy of the run's own head on random units, over random orders, by share.
        kept_smallest: accuracy without the units that have the largest weights in the head, by share.
        removable_random: share of the units that can be removed at random for one percentage point of accuracy.
        removable_largest: share that can be removed where the units with the largest weights go first.
        probes: accuracy of probes trained on random subsets of the units, by share.
    """

    images: int
    units: int
    constant: int
    singular_values: tuple[float, ...]
    effective_rank: float
    participation_ratio: float
    correlation: float | None
    accuracy: float
    shares: tuple[float, ...]
    kept_random: tuple[Estimate, ...]
    kept_smallest: tuple[float, ...]
    removable_random: float
    removable_largest: float
    probes: dict[float, Estimate]


def measure_richness(
    train: Labelled, tests: Sequence[Labelled], weight: npt.ArrayLike, bias: npt.ArrayLike, *, draws: int
) -> list[Richness]:
    """Every measure of this module, on each set of images.

    Args:
        train: images to train probes on.
        tests: sets of images to measure on: held-out i.i.d. images, o.o.d. images.
        weight: weights of the run's head, (classes, units).
        bias: bias of the run's head, (classes,).
        draws: number of random subsets for each share, 1 or more.

    Raises:
        UserError: fewer than two images in a set, or values that are not finite.
    """
    head, offset = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    classes, units = head.shape
    (known, labels), *sets = [(_checked(features), own) for features, own in (train, *tests)]
    orders = random_orders(units, draws)
    probed = {
        share: probe_accuracies(known, labels, sets, classes, orders[:, : _size(share, units)])
        for share in PROBE_SHARES
    }
    smallest_first = np.argsort(np.linalg.norm(head, axis=0), kind="stable")[None]
    found = []
    for index, (table, own) in enumerate(sets):
        values = singular_values(table)
        at_random = head_curve(table, own, head, offset, orders)
        smallest = head_curve(table, own, head, offset, smallest_first)[0].tolist()
        found.append(
            Richness(
                images=len(table),
                units=units,
                constant=int(_constant(table).sum()),
                singular_values=tuple(values.tolist()),
                effective_rank=effective_rank(values),
                participation_ratio=participation_ratio(values),
                correlation=mean_correlation(table),
                accuracy=smallest[-1],
                shares=SHARES,
                kept_random=tuple(Estimate.of(scores) for scores in at_random.T),
                kept_smallest=tuple(smallest),
                removable_random=removable(SHARES, at_random.mean(axis=0).tolist()),
                removable_largest=removable(SHARES, smallest),
                probes={share: Estimate.of(scores[:, index]) for share, scores in probed.items()},
            )
        )
    return found


def singular_values(table: FloatArray) -> FloatArray:
    """Singular values of a representation (n, units) less its mean, descending, (min(n, units),).

    The mean is subtracted since a linear model with a bias does not depend on it.
    """
    values: FloatArray = np.linalg.svd(table - table.mean(axis=0), compute_uv=False)
    return values


def effective_rank(values: npt.ArrayLike) -> float:
    """exp(−Σ p ln p) with p = σ / Σσ, of singular values σ (Roy & Vetterli, 2007, equations 3 and 4).

    From 1 (all in one direction) to the rank (all directions alike); 0 where every value is 0.

    >>> round(effective_rank([2, 2, 2, 0]), 9)
    3.0
    """
    sigma = np.asarray(values, dtype=np.float64)
    share = sigma[sigma > 0] / (sigma.sum() or 1.0)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def participation_ratio(values: npt.ArrayLike) -> float:
    """(Σ σ²)² / Σ σ⁴, the dimension by the covariance's eigenvalues σ² (Gao et al., 2017, *A theory of multineuronal
    dimensionality*); 0 where every value is 0.

    >>> round(participation_ratio([1, 1, 0]), 9)
    2.0
    """
    variance = np.square(np.asarray(values, dtype=np.float64))
    return float(variance.sum() ** 2 / np.square(variance).sum()) if variance.any() else 0.0


def mean_correlation(table: FloatArray) -> float | None:
    """Mean absolute Pearson correlation between two different units of a representation (n, units), in [0, 1].

    It is the redundancy of pairs (Cogswell et al., 2016, reduce the covariances). Independent units have about
    √(2 / (π n)), not 0. Units with one value on all images do not count; None where fewer than two vary.
    """
    varied = table[:, ~_constant(table)]
    units = varied.shape[1]
    if units < 2:
        return None
    return float((np.abs(np.corrcoef(varied, rowvar=False)).sum() - units) / (units * (units - 1)))


def random_orders(units: int, draws: int) -> IntArray:
    """Random orders of the units, (draws, units): the first k of each are a random subset of k.

    They depend on the arguments alone, so that runs are compared on the same subsets.
    """
    return np.stack([generator("subset of units", 0, draw).permutation(units) for draw in range(draws)])


def fit_probe(table: FloatArray, labels: IntArray, classes: int) -> tuple[FloatArray, FloatArray]:
    """Ridge regression onto one-hot labels with a bias, its penalty chosen by exact leave-one-out error.

    The leave-one-out residual is the residual over 1 − h (Allen, 1974, *PRESS*; Golub, Heath & Wahba, 1979), so the
    probe has nothing to tune and no random start. Features are taken as they are, not standardised.

    Args:
        table: representations, (n, units), n ≥ 2.
        labels: class of each image, (n,).
        classes: number of classes.

    Returns:
        Weights (classes, units) and bias (classes,).
    """
    targets = np.eye(classes)[labels]
    middle, prior = table.mean(axis=0), targets.mean(axis=0)
    centred, centred_targets = table - middle, targets - prior
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ centred_targets
    # A representation without any variance has no scale; the prior is then the probe, at any penalty.
    scale = values.mean() or 1.0
    best, chosen = math.inf, 0.0
    for penalty in scale * _PENALTIES:
        shrunk = values / (values + penalty)
        residual = centred_targets - vectors @ (shrunk[:, None] * projected)
        left = 1 - 1 / len(table) - np.square(vectors) @ shrunk
        error = float(np.square(residual / np.maximum(left, 1e-12)[:, None]).mean())
        if error < best:
            best, chosen = error, float(penalty)
    weight = (vectors @ (projected / (values + chosen)[:, None])).T @ centred
    return weight, prior - weight @ middle


def probe_accuracies(
    table: FloatArray, labels: IntArray, tests: Sequence[tuple[FloatArray, IntArray]], classes: int, subsets: IntArray
) -> FloatArray:
    """Accuracy of probes trained on subsets of the units, (subsets, tests).

    Features that are useful "when added to certain subsets of the other existing features" are what the paper looks for
    (section 1, type b).

    Args:
        table: representations of the probes' training images, (n, units).
        labels: class of each training image, (n,).
        tests: representations and labels of each set of test images.
        classes: number of classes.
        subsets: units of each subset, (subsets, k).
    """
    found = np.empty((len(subsets), len(tests)))
    for row, chosen in enumerate(subsets):
        weight, bias = fit_probe(table[:, chosen], labels, classes)
        for column, (features, own) in enumerate(tests):
            found[row, column] = accuracy(features[:, chosen] @ weight.T + bias, own)
    return found


def head_curve(
    table: FloatArray, labels: IntArray, weight: FloatArray, bias: FloatArray, orders: IntArray
) -> FloatArray:
    """Accuracy of a head on the first units of each order, (orders, shares), without training.

    The other units are zeroed, and the kept units divided by their share, as in dropout (section 3.1).

    Args:
        table: representations, (n, units).
        labels: class of each image, (n,).
        weight: weights of the head, (classes, units).
        bias: bias of the head, (classes,).
        orders: orders of the units, (orders, units), such as ``random_orders``.
    """
    units = table.shape[1]
    found = np.empty((len(orders), len(SHARES)))
    for row, order in enumerate(orders):
        for column, share in enumerate(SHARES):
            kept = order[: _size(share, units)]
            found[row, column] = accuracy(units / len(kept) * (table[:, kept] @ weight[:, kept].T) + bias, labels)
    return found


def removable(shares: Sequence[float], accuracies: Sequence[float]) -> float:
    """Share of the units that can be removed before accuracy falls by one percentage point.

    Accuracy is interpolated linearly between shares, and the first fall counts, from all units on. Where accuracy does
    not fall so much, the result is 1 − the smallest share.

    Args:
        shares: shares of the units that are kept, ascending; the last is 1.
        accuracies: accuracy at each share, fractions.

    >>> removable((0.0, 0.5, 1.0), (0.4, 0.78, 0.8))
    0.25
    """
    # Accuracies are counts over numbers of images: a fall of exactly FALL must not depend on the last bit.
    floor = accuracies[-1] - FALL - 1e-12
    for index in range(len(shares) - 2, -1, -1):
        if accuracies[index] < floor:
            part = (accuracies[index + 1] - floor) / (accuracies[index + 1] - accuracies[index])
            return round(float(1 - shares[index + 1] + part * (shares[index + 1] - shares[index])), 9)
    return round(1 - shares[0], 9)


def _size(share: float, units: int) -> int:
    """Number of units in a subset of this share, at least one."""
    return max(1, round(share * units))


def _constant(table: FloatArray) -> npt.NDArray[np.bool_]:
    constant: npt.NDArray[np.bool_] = table.max(axis=0) == table.min(axis=0)
    return constant


def _checked(features: npt.NDArray[np.floating]) -> FloatArray:
    if len(features) < 2:
        raise UserError(f"a representation must be of two images or more, not {len(features)}")
    if not np.isfinite(features).all():
        raise UserError("the representation contains NaN or infinity")
    return features.astype(np.float64)
