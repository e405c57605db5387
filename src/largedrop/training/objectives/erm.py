"""Empirical risk minimisation: plain fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UserError
from .base import PenaltyObjective

__all__ = ["ERM"]


class ERM(PenaltyObjective):
    """The mean cross-entropy of the batch, and no second term (Vapnik, 1998)."""

    name = "erm"
    default_weight = 0.0
    fewest_domains = 1

    def __init__(self, weight: float = default_weight, anneal_steps: int = 0) -> None:
        super().__init__(weight, anneal_steps)
        if weight:
            raise UserError(f"erm has no penalty: its weight must be 0, not {weight}")

    def penalty(self, representation: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """0, ()."""
        return torch.zeros((), dtype=logits.dtype, device=logits.device)
