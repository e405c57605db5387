"""The uniform average of the weights at all evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..averaging import WeightAverage
from .base import Average

__all__ = ["UniformAverage"]


class UniformAverage(Average):
    """The mean of the weights at all evaluations after the first step (section 4.1).

    The evaluation before the first step, whose head may be random, does not count. The paper's public code averages the
    weights after every step from 300 on.
    """

    method = "weight-average"
    checkpoint = "average"

    def __init__(self) -> None:
        self._average = WeightAverage()

    def evaluated(self, step: int, network: nn.Module, loss: float) -> None:
        self._average.add(network.state_dict())

    def result(self) -> dict[str, Tensor]:
        return self._average.mean

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"count": self._average.count}, dict(self._average.mean)

    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._average = WeightAverage(tensors, int(header["count"]))
