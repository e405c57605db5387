"""Dropout masks of linear fits: a function of (seed, step, rate), so that all who share those can share the masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...data.random import generator

__all__ = ["draw", "dropped_levels", "multiplier"]

LEVELS = 2**16
"""A unit is dropped by 16 random bits, so rates are exact to 1/65536."""


def dropped_levels(rate: float) -> int:
    """By how many of the 65,536 values of 16 bits a unit is dropped at a rate in [0, 1); never by all of them."""
    return min(round(rate * LEVELS), LEVELS - 1)


def draw(seed: int, step: int, rows: int, units: int) -> npt.NDArray[np.uint16]:
    """The random bits of a step's masks, of every rate: what a lower rate drops a higher one drops too.

    So rates are compared on common random numbers. ``rows`` is that of the batch, ``units`` that of the representation.
    """
    return generator("linear mask", seed, step).integers(0, LEVELS, (rows, units), np.uint16)


def multiplier(drawn: npt.NDArray[np.uint16], rate: float, out: npt.NDArray[np.floating]) -> None:
    """What features are multiplied by in training: m/(1 − λ), m ~ Bernoulli(1 − λ), written to ``out``.

    Args:
        drawn: from ``draw``, (rows, units).
        rate: λ in [0, 1), rounded to 1/65536.
        out: float32 or float64, of the shape of ``drawn``.
    """
    dropped = dropped_levels(rate)
    np.multiply(drawn >= dropped, out.dtype.type(LEVELS / (LEVELS - dropped)), out=out)
