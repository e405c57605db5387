"""Averages of the weights along one trajectory.

To add one: a class in a file of its own here, and its method in ``runs.methods``.
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
"""In the order of ``METHODS``."""


def make_averages(config: Config) -> dict[str, Average]:
    """The averages that a run of ``config`` keeps, empty, by the name of their method."""
    return {kind.method: kind() for kind in AVERAGES if kind.wanted(config)}
