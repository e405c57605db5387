"""One optimiser step: forward, objective, backward, update; on a GPU it may be recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.network import Network
from .evaluation import autocast
from .graph import GraphedStep
from .objectives import Objective
from .objectives.erm import ERM

__all__ = ["LOOK_EVERY", "TrainingStep"]

LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between two readings of the losses; reading synchronises with the device, so on a GPU it is done rarely."""


class TrainingStep:
    """Does optimiser steps on batches, and keeps their losses on the device until they are read.

    Args:
        network: network in training mode.
        optimizer: optimiser of its parameters; on a GPU one that can be recorded (``setup.make_optimizer``).
        precision: precision of the forward and backward pass, as in ``Config.precision``.
        finish: function from the step's inputs to a normalised batch, called inside the step (``Views.finish``).
        objective: objective to minimise, bound to the network; cross-entropy by default.
        domains: number of training domains, which have equal parts of every batch.
        note: receives a line for the user where the step cannot be recorded.
        record: whether it is recorded where that can be done.
    """

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        precision: str,
        finish: Callable[[Tensor], Tensor],
        objective: Objective | None = None,
        domains: int = 1,
        note: Callable[[str], None] = lambda text: None,
        record: bool = True,
    ) -> None:
        self.network, self.optimizer, self.precision, self.finish = network, optimizer, precision, finish
        self.objective, self.domains = objective or ERM(), domains
        self.device = network.head.weight.device
        self._step = 0
        recordable = record and self.objective.recordable
        self._graphed = GraphedStep(self._compute, self.device, note=note) if recordable else None
        self._unread: list[Tensor] = []

    def __call__(self, inputs: Tensor, labels: Tensor, step: int = 0) -> None:
        """Do step number ``step`` (from 0) on ``inputs``, (n, …), and their ``labels``, int64 (n,)."""
        self._step = step
        run = self._graphed or self._compute
        self._unread.append(torch.stack(run(inputs, labels)))

    def close(self) -> None:
        """Free what a recorded step holds on the device; no step may follow."""
        if self._graphed is not None:
            self._graphed.close()

    @property
    def refused(self) -> bool:
        """Whether recording was tried and failed."""
        return self._graphed is not None and self._graphed.refused

    @property
    def due(self) -> bool:
        """Whether ``LOOK_EVERY`` losses are unread."""
        return len(self._unread) >= LOOK_EVERY[self.device.type]

    def read(self) -> list[tuple[float, float]]:
        """Loss in nats, and root mean square of the representation, of each step since the last reading."""
        if not self._unread:
            return []
        values = torch.stack(self._unread).tolist()
        self._unread = []
        return [(loss, size) for loss, size in values]

    def _compute(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        batch = self.finish(inputs.to(self.device, non_blocking=True))
        self.optimizer.zero_grad(set_to_none=True)
        found = self.objective.backward(
            self._forward, batch, labels.to(self.device, non_blocking=True), self.domains, self._step
        )
        if self.objective.resets_optimizer_at(self._step):
            self.optimizer.state.clear()
        self.optimizer.step()
        return found.loss, found.representation.float().square().mean().sqrt()

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.precision, self.device):
            representation = self.network.represent(images)
            return representation, self.network.head(self.network.dropout(representation))
