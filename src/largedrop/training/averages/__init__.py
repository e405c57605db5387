"""Averages of the weights along one trajectory.

To add an average: a class in a new file here, and its method in ``runs.methods``.
"""

from __future__ import annotations

from ...config import Config
from ...runs.methods import order
from ..kinds import classes_in
from .base import Average

__all__ = ["AVERAGES", "Average", "make_averages"]

AVERAGES: list[type[Average]] = sorted(
    (kind for kind in classes_in(__name__) if issubclass(kind, Average)), key=lambda kind: order(kind.method)
)
"""The averages, in the order of ``METHODS``."""


def make_averages(config: Config) -> dict[str, Average]:
    """New averages for a run of ``config``, by the name of their method."""
    return {kind.method: kind.of(config) for kind in AVERAGES if kind.applies_to(config)}
