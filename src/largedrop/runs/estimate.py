"""A mean over seeds with its standard error, and the text for accuracies, gains, lists and durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "duration", "estimate_json", "listing", "percent", "percentage_points", "tested_on"]


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds, a fraction, and its standard error, None for one seed."""

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | npt.NDArray[np.float64]) -> Estimate:
        """Mean and standard error (ddof = 1) of at least one value.

        >>> Estimate.of([0.5, 0.7])
        Estimate(mean=0.6, error=0.1, n=2)
        """
        n = len(values)
        error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
        # Twelve digits are far beyond any test set's resolution; the rounding hides the sums' last bits.
        return cls(round(float(np.mean(values)), 12), None if error is None else round(error, 12), n)


def estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """Mean, standard error and n as a dictionary; None for None."""
    return None if estimate is None else {"mean": estimate.mean, "error": estimate.error, "n": estimate.n}


def percent(estimate: Estimate | None) -> str:
    """An accuracy and its standard error in %; ``–`` where it is unknown.

    >>> percent(Estimate(0.727, 0.004, 3)), percent(Estimate(0.727, None, 1)), percent(None)
    ('72.7 ± 0.4', '72.7 ± –', '–')
    """
    if estimate is None:
        return "–"
    return f"{100 * estimate.mean:.1f} ± {_error(estimate)}"


def percentage_points(estimate: Estimate | None) -> str:
    """A difference and its standard error in percentage points, with its sign.

    >>> percentage_points(Estimate(0.098, 0.006, 3)), percentage_points(Estimate(-0.0001, None, 1))
    ('+9.8 ± 0.6', '0.0 ± –')
    """
    if estimate is None:
        return "–"
    # A difference that rounds to 0.0 is shown without a sign.
    mean = f"{100 * estimate.mean:+.1f}"
    return f"{'0.0' if mean in ('+0.0', '-0.0') else mean.replace('-', '−')} ± {_error(estimate)}"


def listing(names: Sequence[str]) -> str:
    """``names`` as a list in a sentence.

    >>> listing(["photo", "cartoon", "sketch"])
    'photo, cartoon and sketch'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def tested_on(domains: Sequence[str]) -> str:
    """The test domains in a sentence; one that is called nothing is none.

    >>> tested_on(["photo", "sketch"]), tested_on(["photo"]), tested_on([""])
    ('test domains photo and sketch', 'test domain photo', 'no test domain')
    """
    return f"test domain{'s'[: len(domains) > 1]} {listing(domains)}" if any(domains) else "no test domain"


def duration(seconds: float) -> str:
    """A time in hours, minutes or seconds.

    >>> duration(42), duration(200), duration(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _error(estimate: Estimate) -> str:
    return "–" if estimate.error is None else f"{100 * estimate.error:.1f}"
