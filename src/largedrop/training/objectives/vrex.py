"""V-REx (Krueger et al., 2021): equal losses in every domain."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .base import AnnealedObjective

__all__ = ["VREx", "vrex_penalty"]


class VREx(AnnealedObjective):
    """Mean of the domains' cross-entropies plus their variance (Krueger et al., 2021, equation 8).

    Args:
        weight: weight β of the variance after the annealing steps (DomainBed's ``vrex_lambda``).
        anneal_steps: number of first steps, with a weight of 1.
    """

    name = "vrex"
    default_weight = 10.0
    default_anneal_steps = 500

    def __init__(self, weight: float = default_weight, anneal_steps: int = default_anneal_steps) -> None:
        super().__init__(weight, anneal_steps)

    def penalty(self, representation: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``vrex_penalty``."""
        targets = labels.expand(logits.shape[:-1])
        losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        losses = losses.view(targets.shape)
        if self.class_weights is not None:
            losses = losses * self.class_weights[targets]
        return vrex_penalty(losses.mean(-1))


def vrex_penalty(losses: Tensor) -> Tensor:
    """The variance of the domains' losses, (…, domains), with their number as divisor, averaged over masks; ()."""
    return (losses - losses.mean(-1, keepdim=True)).square().mean()
