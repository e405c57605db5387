"""How far a model's probabilities can be believed: a temperature that corrects them, and what measures their error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "COLDEST", "HOTTEST", "Calibration", "calibration", "fit_temperature", "softmax"]

BINS = 15
"""Bins of equal width for the calibration error, as in Guo et al. (2017)."""

HOTTEST = 20.0
"""Largest temperature that is fitted: that of a network which knows nothing would be infinite."""

COLDEST = 0.05
"""Smallest temperature that is fitted."""

_CHUNK = 1 << 22

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The error of probabilities.

    Attributes:
        ece: expected calibration error: mean distance of confidence and accuracy over ``BINS`` bins of the confidence,
            weighted by images, a fraction.
        nll: mean negative log likelihood of the true class, in nats; None where no image is of a class that the model
            knows.
        brier: mean squared error of the probabilities, summed over the classes, from 0 to 2; None as for ``nll``.
        confidence: mean of the largest probability; above the accuracy the model is overconfident.
        n: number of images.
    """

    ece: float
    nll: float | None
    brier: float | None
    confidence: float
    n: int


def softmax(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Probabilities of logits / temperature, float64 (n, classes)."""
    rows = logits.astype(np.float64) / temperature
    rows -= rows.max(axis=1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


def fit_temperature(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], domains: npt.NDArray[np.int64]
) -> float | None:
    """The temperature T for which softmax(logits / T) has the smallest mean loss (Guo et al., 2017, section 4.2).

    Every domain has the same weight, as in the i.i.d. accuracy. All labels together are smoothed by one image's worth
    of uniform labels (as Platt, 1999, does): else the best temperature of a network that is right on every image is 0,
    and all its probabilities are 1. The loss is convex in 1 / T, and its minimum is found by Newton's method, kept in a
    bracket.

    Args:
        logits: logits of held-out images, (n, classes).
        labels: class of each image, (n,).
        domains: index of each image's domain, (n,).

    Returns:
        T, from ``COLDEST`` to ``HOTTEST``, rounded to six decimals; None where a logit is not finite.
    """
    count = len(labels)
    if not count or not np.isfinite(logits).all():
        return None
    _, inverse, sizes = np.unique(domains, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[inverse].astype(np.float64))
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _derivatives(logits, labels, weights, low)[0] >= 0:
        return HOTTEST
    if _derivatives(logits, labels, weights, high)[0] <= 0:
        return COLDEST
    inverse_temperature = 1.0
    for _ in range(100):
        slope, curvature = _derivatives(logits, labels, weights, inverse_temperature)
        low, high = (inverse_temperature, high) if slope < 0 else (low, inverse_temperature)
        following = inverse_temperature - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - inverse_temperature) <= 1e-10 * inverse_temperature:
            break
        inverse_temperature = following
    return round(1 / inverse_temperature, 6)


def _derivatives(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], weights: Floats, inverse: float
) -> tuple[float, float]:
    """First and second derivative of the smoothed loss at 1 / T = ``inverse``."""
    count, classes = logits.shape
    slope = curvature = 0.0
    step = max(1, _CHUNK // classes)
    for start in range(0, count, step):
        rows = logits[start : start + step].astype(np.float64)
        share = weights[start : start + step]
        target = (count * rows[np.arange(len(rows)), labels[start : start + step]] + rows.mean(axis=1)) / (count + 1)
        likely = softmax(rows, 1 / inverse)
        mean = (likely * rows).sum(axis=1)
        slope += float(share @ (mean - target))
        curvature += float(share @ (likely * (rows - mean[:, None]) ** 2).sum(axis=1))
    return slope, curvature


def calibration(probabilities: Floats, labels: npt.NDArray[np.int64]) -> Calibration:
    """The error of probabilities.

    Args:
        probabilities: probabilities, (n, classes), of at least one image.
        labels: class of each image, (n,); -1 for a class that the model does not know, which counts as wrong in ``ece``
            and is left out of ``nll`` and ``brier``.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=sure - right, minlength=BINS)
    known = labels >= 0
    nll = brier = None
    if known.any():
        rows, truth = probabilities[known], labels[known]
        true = rows[np.arange(len(rows)), truth]
        nll = float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())
        brier = float(((rows**2).sum(axis=1) - 2 * true + 1).mean())
    return Calibration(float(np.abs(gaps).sum() / len(labels)), nll, brier, float(sure.mean()), len(labels))
