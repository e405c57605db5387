"""One optimiser step: forward, cross-entropy, backward, update; recorded as a CUDA graph where the device is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.network import Network
from .evaluation import autocast
from .graph import GraphedStep

__all__ = ["TrainingStep"]

LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between two readings of the losses. Reading waits for the device, which on a GPU should always have work."""


class TrainingStep:
    """Does optimiser steps on batches, and keeps their losses on the device until they are read.

    Args:
        network: in training mode.
        optimizer: over its parameters; on a GPU one that can be recorded (``setup.make_optimizer``).
        precision: of the forward and backward pass.
        finish: turns what the step is called with into a normalised batch, inside the step (``Views.finish``).
    """

    def __init__(
        self, network: Network, optimizer: torch.optim.Optimizer, precision: str, finish: Callable[[Tensor], Tensor]
    ) -> None:
        self.network, self.optimizer, self.precision, self.finish = network, optimizer, precision, finish
        self.device = network.head.weight.device
        self._run = GraphedStep(self._compute, self.device)
        self._unread: list[Tensor] = []

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        """Do one step on ``inputs``, (n, …), and their ``labels``, int64 (n,)."""
        self._unread.append(torch.stack(self._run(inputs, labels)))

    @property
    def due(self) -> bool:
        """Whether so many losses are unread that it is time to read them."""
        return len(self._unread) >= LOOK_EVERY[self.device.type]

    def read(self) -> list[tuple[float, float]]:
        """For each step since the last reading: its loss in nats, and its representation's root mean square."""
        if not self._unread:
            return []
        values = torch.stack(self._unread).tolist()
        self._unread = []
        return [(loss, size) for loss, size in values]

    def _compute(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        batch = self.finish(inputs)
        with autocast(self.precision, self.device):
            representation = network.represent(batch)
            outputs = network.head(network.dropout(representation))
        loss = F.cross_entropy(outputs.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), representation.detach().float().square().mean().sqrt()
