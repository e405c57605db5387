"""Intervals of paired differences, one of each test domain."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

T_95 = {4: 3.182, 5: 2.776, 9: 2.306}
"""Two-sided 95 % point of Student's t, by the number of test domains: one more than its degrees of freedom."""


def interval(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval, of paired differences, one of each test domain."""
    number = len(differences)
    return float(differences.mean()), T_95[number] * float(differences.std(ddof=1)) / math.sqrt(number)
