"""The exponential average of the weights after every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...config import Config
from ..averaging import check_same, is_averaged, precise
from .base import Average

__all__ = ["ExponentialAverage"]


class ExponentialAverage(Average):
    """The mean of the weights after every step, weighted by β^(T − t) at step t of T so far.

    It is Polyak averaging with a decay, without the bias towards a start at zero (Kingma & Ba, 2015, arXiv 1412.6980,
    section 3): m_t = m_{t−1} + (1 − β) / (1 − β^t) · (w_t − m_{t−1}). Integer buffers (batch norm's counters) are those
    of the last step.

    Args:
        decay: β in (0, 1); the average is over about the last 1 / (1 − β) steps.
        stays: whether the network has the same tensors at every step, so that they are listed once.
    """

    method = "ema"
    checkpoint = "ema"

    def __init__(self, decay: float, stays: bool = True) -> None:
        self.decay, self.stays = decay, stays
        self._count = 0
        self._mean: dict[str, Tensor] = {}
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @classmethod
    def applies_to(cls, config: Config) -> bool:
        return config.ema > 0

    @classmethod
    def of(cls, config: Config) -> ExponentialAverage:
        return cls(config.ema)

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        if self._pairs is None or not self.stays:  # to list a network's tensors costs as much as to add them
            weights = network.state_dict()
            self._mean = self._mean or {name: precise(tensor).clone() for name, tensor in weights.items()}
            if self._mean.keys() != weights.keys():
                check_same(self._mean, weights)
            names = [name for name, tensor in weights.items() if is_averaged(tensor)]
            self._pairs = [self._mean[name] for name in names], [weights[name] for name in names]
        self._count += 1
        means, weights_now = self._pairs
        if any(weight.dtype != mean.dtype for mean, weight in zip(means, weights_now, strict=True)):
            weights_now = [precise(weight) for weight in weights_now]
        torch._foreach_lerp_(means, weights_now, (1 - self.decay) / (1 - self.decay**self._count))

    def evaluated(self, step: int, network: nn.Module, loss: float) -> None:
        for name, tensor in network.state_dict().items():
            if not is_averaged(tensor):
                self._mean[name] = tensor.clone()

    def result(self) -> dict[str, Tensor]:
        return self._mean

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"count": self._count}, dict(self._mean)

    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._count, self._mean, self._pairs = int(header["count"]), dict(tensors), None
