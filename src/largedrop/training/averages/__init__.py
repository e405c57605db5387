"""Averages of the weights along one trajectory. To add one: its file, its name here and its entry in runs/methods."""

from __future__ import annotations

from ...config import Config
from .base import Average
from .swad import DenseAverage
from .uniform import UniformAverage

__all__ = ["AVERAGES", "Average", "make_averages"]


AVERAGES: tuple[type[Average], ...] = (UniformAverage, DenseAverage)


def make_averages(config: Config) -> dict[str, Average]:
    """The averages that a run of ``config`` keeps, empty, by the name of their method."""
    return {kind.method: kind() for kind in AVERAGES if kind.wanted(config)}
