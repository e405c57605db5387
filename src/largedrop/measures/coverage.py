"""Risk and coverage: how many errors are left where a model may abstain from the images that it is least sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Coverage", "risk_coverage"]


@dataclass(frozen=True)
class Coverage:
    """The errors among the surest images (El-Yaniv and Wiener, 2010).

    Attributes:
        coverage: shares of the images that are answered, ascending to 1, at most 101.
        risk: share of errors among these.
        aurc: mean of the risk over all coverages 1/n … 1: the area under the curve (Geifman et al., 2019).
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float


def risk_coverage(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], points: int = 101) -> Coverage:
    """The curve of images by how sure a model is; images of equal confidence count as the mean over their orders.

    Args:
        sure: largest probability of each image, (n,), at least one.
        right: whether it is right, (n,).
        points: largest number of points that are kept.
    """
    order = np.argsort(-sure, kind="stable")
    wrong, sure = (~right[order]).astype(np.float64), sure[order]
    _, first, sizes = np.unique(-sure, return_index=True, return_counts=True)
    errors = np.repeat(np.add.reduceat(wrong, first) / sizes, sizes).cumsum()
    risk = errors / np.arange(1, len(wrong) + 1)
    chosen = np.unique(np.linspace(0, len(risk) - 1, min(points, len(risk))).round().astype(np.int64))
    covered = (chosen + 1) / len(risk)
    return Coverage(tuple(covered.tolist()), tuple(risk[chosen].tolist()), float(risk.mean()))
