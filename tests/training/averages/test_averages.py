"""The averages that the folder has, each with a method and a checkpoint of its own."""

from __future__ import annotations

from largedrop.runs.methods import METHODS
from largedrop.training.averages import AVERAGES
from largedrop.training.averages.ema import ExponentialAverage
from largedrop.training.averages.swad import DenseAverage
from largedrop.training.averages.uniform import UniformAverage


def test_every_average_has_a_method_along_trajectories_and_a_checkpoint() -> None:
    assert {UniformAverage, DenseAverage, ExponentialAverage} <= {*AVERAGES}
    methods, files = [kind.method for kind in AVERAGES], [kind.checkpoint for kind in AVERAGES]
    assert methods == [name for name in METHODS if name in methods]
    assert not any(METHODS[name].across or METHODS[name].fit for name in methods)
    assert len({*files, "best", "final", "resume"}) == len(files) + 3
