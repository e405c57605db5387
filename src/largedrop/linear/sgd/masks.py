"""Dropout masks of linear fits: a function of (seed, step, rate), so that fits can share them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...data.random import generator

__all__ = ["draw", "dropped_levels", "multiplier"]

LEVELS = 2**16
"""Number of values of 16 random bits, by which a unit is dropped: rates are exact to 1/65536."""


def dropped_levels(rate: float) -> int:
    """Number of the 65,536 values of 16 bits at which a unit is dropped, for a rate in [0, 1); at most 65,535."""
    return min(round(rate * LEVELS), LEVELS - 1)


def draw(seed: int, step: int, rows: int, units: int) -> npt.NDArray[np.uint16]:
    """The random bits of a step's masks at every rate, (rows, units): a higher rate drops what a lower one drops.

    So rates are compared on common random numbers.
    """
    return generator("linear mask", seed, step).integers(0, LEVELS, (rows, units), np.uint16)


def multiplier(drawn: npt.NDArray[np.uint16], rate: float, out: npt.NDArray[np.floating]) -> None:
    """Write the factors of the features in training, m/(1 − λ) with m ~ Bernoulli(1 − λ), to ``out``.

    Args:
        drawn: random bits from ``draw``, (rows, units).
        rate: dropout rate λ in [0, 1), rounded to 1/65536.
        out: float32 or float64, (rows, units).
    """
    dropped = dropped_levels(rate)
    np.multiply(drawn >= dropped, out.dtype.type(LEVELS / (LEVELS - dropped)), out=out)
