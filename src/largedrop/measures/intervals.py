"""Shares of right answers with 95 % intervals, by domain and class: of one model, or of the difference of two.

Images are independent of each other unless they share a group (the same thing, patient or camera trap); then whole
groups are drawn anew (a bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DRAWS", "Interval", "Scores", "mcnemar", "newcombe", "scored", "wilson"]

DRAWS = 2000
"""Times that the groups are drawn anew."""

_Z = 1.959963984540054

_Limits = tuple[float, float]

_Floats = npt.NDArray[np.float64]

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, its 95 % interval, and the number of images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Scores:
    """Accuracies, or differences of accuracies.

    Attributes:
        accuracy: over images; over all domains, the mean of the domains' accuracies.
        macro: mean over the classes that there are images of; over all domains, the mean of the domains'.
        classes: of each class; None where there is no image of it, and empty over all domains.
        groups: number of groups, where they are fewer than the images: the intervals are then by groups; else None.
    """

    accuracy: Interval
    macro: Interval
    classes: tuple[Interval | None, ...]
    groups: int | None


def wilson(right: float, n: float) -> _Limits:
    """The score interval of a share (Wilson, 1927).

    >>> [round(limit, 4) for limit in wilson(0, 10)]
    [0.0, 0.2775]
    """
    share, square = right / n, _Z * _Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(both: float, first: float, second: float, neither: float) -> _Limits:
    """The interval of the difference of two paired shares, second minus first (Newcombe, 1998, method 10).

    Args:
        both: images on which both are right; ``first``, ``second``: only that one; ``neither``: none.

    >>> [round(limit, 4) for limit in newcombe(36, 2, 12, 0)]  # Newcombe's table II, row (c), of the other sign
    [0.0569, 0.3404]
    """
    n = both + first + second + neither
    shares = [(both + first) / n, (both + second) / n]
    (low_1, high_1), (low_2, high_2) = (wilson(share * n, n) for share in shares)
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    excess = both * neither - first * second
    if excess > 0:
        excess = max(excess - n / 2, 0)
    phi = excess / math.sqrt(product) if product else 0.0
    difference = shares[1] - shares[0]

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    below = reach(shares[1] - low_2, high_1 - shares[0])
    return difference - below, difference + reach(high_2 - shares[1], shares[0] - low_1)


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p-value that two models are right equally often (McNemar).

    Args:
        first: images on which only the first is right; ``second``: only the second.

    >>> mcnemar(0, 0), round(mcnemar(2, 10), 4)
    (1.0, 0.0386)
    """
    n, least = first + second, min(first, second)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def scored(
    right: npt.NDArray[np.bool_],
    labels: _Ints,
    domains: _Ints,
    groups: _Ints,
    classes: int,
    against: npt.NDArray[np.bool_] | None = None,
) -> tuple[list[Scores], Scores]:
    """The accuracies in each domain, and over all domains, each with the same weight.

    Shares have Wilson's interval and differences Newcombe's; means of these over classes or domains are combined by
    the method of variance estimates recovery (Zou and Donner, 2008). Where images share groups, intervals are
    percentiles over ``DRAWS`` bootstrap samples of the groups, always the same ones.

    Args:
        right: whether each image is classified correctly, (n,).
        labels: class of each image, (n,).
        domains: index of each image's domain, from 0 and without gaps, (n,).
        groups: number of each image's group, (n,).
        classes: number of classes.
        against: whether another model is right, (n,): then the differences, this one minus the other.

    Returns:
        One entry for each domain, and one for all of them.
    """
    each = []
    for domain in range(int(domains.max()) + 1):
        of = domains == domain
        each.append(
            _Part(right[of], labels[of], groups[of], classes, None if against is None else against[of]).scores()
        )
    return each, _over_all(right, labels, domains, groups, classes, against, each)


class _Part:
    """The images of one domain."""

    def __init__(
        self,
        right: npt.NDArray[np.bool_],
        labels: _Ints,
        groups: _Ints,
        classes: int,
        against: npt.NDArray[np.bool_] | None,
    ) -> None:
        self.right, self.against = right, against
        self.labels, self.groups, self.classes = labels, groups, classes
        self.values = right.astype(np.float64) - (0.0 if against is None else against)

    def scores(self) -> Scores:
        sums = np.bincount(self.labels, self.values, self.classes)
        counts = np.bincount(self.labels, minlength=self.classes)
        has = np.flatnonzero(counts)
        shares = sums[has] / counts[has]
        value, mean = float(sums.sum() / counts.sum()), float(shares.mean())
        groups = len(np.unique(self.groups))
        if groups == len(self.groups):
            whole = self._limits(np.ones(len(self.labels), np.bool_))
            each = [self._limits(self.labels == label) for label in has]
            macro = _combined(shares, each)
        else:
            drawn = resampled(self.values, self.labels, self.groups, self.classes)
            with np.errstate(invalid="ignore"):
                found = drawn.sums[:, has] / drawn.counts[:, has]
            everywhere = np.ones(len(self.labels), np.bool_)
            whole = self._or_a_trial_a_group(_percentiles(drawn.sums.sum(1) / drawn.counts.sum(1)), everywhere)
            each = [
                self._or_a_trial_a_group(_percentiles(found[:, at]), self.labels == label)
                for at, label in enumerate(has)
            ]
            macro = _percentiles(np.nanmean(found, axis=1))
            if macro[0] == macro[1]:
                macro = wilson(mean * groups, groups) if self.against is None else _combined(shares, each)
        classes: list[Interval | None] = [None] * self.classes
        for label, share, limits in zip(has, shares, each, strict=True):
            classes[label] = Interval(float(share), *limits, int(counts[label]))
        return Scores(
            accuracy=Interval(value, *whole, len(self.labels)),
            macro=Interval(mean, *macro, len(self.labels)),
            classes=tuple(classes),
            groups=None if groups == len(self.groups) else groups,
        )

    def _limits(self, of: npt.NDArray[np.bool_], trials: int | None = None) -> _Limits:
        """The limits over independent images, or as if they were so many ``trials``."""
        right = self.right[of]
        scale = 1.0 if trials is None else trials / len(right)
        if self.against is None:
            return wilson(int(right.sum()) * scale, len(right) * scale)
        other = self.against[of]
        counts = (right & other, other & ~right, right & ~other, ~right & ~other)
        return newcombe(*(int(each.sum()) * scale for each in counts))

    def _or_a_trial_a_group(self, limits: _Limits, of: npt.NDArray[np.bool_]) -> _Limits:
        """``limits``, or where all groups agree or there is one, which no bootstrap can doubt, with a trial a group."""
        return self._limits(of, len(np.unique(self.groups[of]))) if limits[0] == limits[1] else limits


def _over_all(
    right: npt.NDArray[np.bool_],
    labels: _Ints,
    domains: _Ints,
    groups: _Ints,
    classes: int,
    against: npt.NDArray[np.bool_] | None,
    each: list[Scores],
) -> Scores:
    number, distinct = len(each), len(np.unique(groups))
    grouped = distinct < len(groups)
    limits: list[_Limits] = []
    for take in _TAKES:
        taken = [take(scores) for scores in each]
        limits.append(_combined(np.array([one.value for one in taken]), [(one.low, one.high) for one in taken]))
    if grouped and number > 1:
        values = right.astype(np.float64) - (0.0 if against is None else against)
        drawn = resampled(values, domains * classes + labels, groups, number * classes)
        sums, counts = (part.reshape(-1, number, classes) for part in (drawn.sums, drawn.counts))
        with np.errstate(invalid="ignore"):
            wholes, shares = sums.sum(2) / counts.sum(2), sums / counts
        has = np.bincount(domains * classes + labels, minlength=number * classes).reshape(number, classes) > 0
        macros = np.stack([np.nanmean(shares[:, at][:, has[at]], axis=1) for at in range(number)], axis=1)
        found = [_percentiles(np.nanmean(part, axis=1)) for part in (wholes, macros)]
        limits = [new if new[0] < new[1] else old for new, old in zip(found, limits, strict=True)]
    accuracy, macro = (
        Interval(float(np.mean([take(scores).value for scores in each])), *pair, len(right))
        for take, pair in zip(_TAKES, limits, strict=True)
    )
    return Scores(accuracy, macro, (), distinct if grouped else None)


def _accuracy(scores: Scores) -> Interval:
    return scores.accuracy


def _macro(scores: Scores) -> Interval:
    return scores.macro


_TAKES: tuple[Callable[[Scores], Interval], ...] = (_accuracy, _macro)


@dataclass(frozen=True)
class _Drawn:
    """Bootstrap samples: the sum of the values and the number of images in each cell, (draws, cells)."""

    sums: _Floats
    counts: _Floats


def resampled(values: _Floats, cells: _Ints, groups: _Ints, number: int, draws: int = DRAWS) -> _Drawn:
    """Draw as many groups as there are, with replacement, again and again; always the same ones.

    Args:
        values: a value of each image, (n,).
        cells: which of ``number`` cells each image is in, (n,).
        groups: number of each image's group, (n,).
    """
    distinct, inverse = np.unique(groups, return_inverse=True)
    rng = np.random.Generator(np.random.Philox(key=[0, len(values)]))
    sums, counts = np.empty((draws, number)), np.empty((draws, number))
    for draw in range(draws):
        times = np.bincount(rng.integers(len(distinct), size=len(distinct)), minlength=len(distinct))[inverse]
        sums[draw] = np.bincount(cells, times * values, number)
        counts[draw] = np.bincount(cells, times, number)
    return _Drawn(sums, counts)


def _percentiles(values: _Floats) -> _Limits:
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _combined(values: _Floats, limits: list[_Limits]) -> _Limits:
    """The limits of the mean of independent estimates, from the limits of each."""
    low, high = np.array(limits).T
    mean, count = float(values.mean()), len(values)
    below = float(np.sqrt(((values - low) ** 2).sum()) / count)
    above = float(np.sqrt(((high - values) ** 2).sum()) / count)
    return max(mean - below, float(low.min())), min(mean + above, float(high.max()))  # which rounding alone passes
