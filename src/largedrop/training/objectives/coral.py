"""Deep CORAL (Sun & Saenko, 2016): representations whose second moments are the same in every domain."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import PenaltyObjective

__all__ = ["Coral", "coral_penalty"]


class Coral(PenaltyObjective):
    """Cross-entropy plus the distance of the domains' representations, as DomainBed computes it (``mmd_gamma``).

    Args:
        weight: weight of the distance.
        anneal_steps: must be 0.
    """

    name = "coral"
    default_weight = 1.0
    fewest_images = 2  # for a covariance

    def __init__(self, weight: float = default_weight, anneal_steps: int = 0) -> None:
        super().__init__(weight, anneal_steps)

    def penalty(self, representation: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``coral_penalty``."""
        return coral_penalty(representation)


def coral_penalty(representation: Tensor) -> Tensor:
    """Mean over pairs of domains of |μ_i − μ_j|²/d + |C_i − C_j|²/d², with the covariances C unbiased.

    Sun & Saenko (2016), section 3.1, have the second term alone, with a factor of 1/4; DomainBed adds the means and
    drops the factor.

    Args:
        representation: representation, (domains, images, units d), two or more domains and images.

    Returns:
        ().
    """
    domains, images, _ = representation.shape
    mean = representation.mean(1)
    centred = representation - mean[:, None]
    covariance = centred.mT @ centred / (images - 1)
    one, other = torch.triu_indices(domains, domains, 1, device=representation.device)
    of_means = (mean[one] - mean[other]).square().mean()
    of_covariances = sum(
        (covariance[i] - covariance[j]).square().mean() for i in range(domains) for j in range(i + 1, domains)
    )
    return of_means + of_covariances / len(one)
