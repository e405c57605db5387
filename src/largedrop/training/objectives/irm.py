"""IRMv1 (Arjovsky et al., 2019): a head that is optimal in every domain at once."""

from __future__ import annotations

from torch import Tensor

from .base import AnnealedObjective

__all__ = ["IRM", "irm_penalty"]


class IRM(AnnealedObjective):
    """Cross-entropy plus its squared gradient, in each domain, by a scalar factor of the logits (section 3.1).

    Args:
        weight: weight λ of the squared gradient after the annealing steps (DomainBed's ``irm_lambda``).
        anneal_steps: number of first steps, with a weight of 1.
    """

    name = "irm"
    default_weight = 100.0
    default_anneal_steps = 500
    fewest_images = 2  # one for each half

    def __init__(self, weight: float = default_weight, anneal_steps: int = default_anneal_steps) -> None:
        super().__init__(weight, anneal_steps)

    def penalty(self, representation: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``irm_penalty``."""
        return irm_penalty(logits, labels, self.class_weights)


def irm_penalty(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over domains of g₁·g₂, where g is ∂/∂w at w = 1 of the cross-entropy of w · logits.

    g₁ is over the even and g₂ over the odd images of a domain: the product of two independent estimates is unbiased,
    unlike the square of one (Arjovsky et al., 2019, appendix D; DomainBed). It may be negative. The derivative is
    written out, Σ_k softmax(z)_k z_k − z_y, so that the network is differentiated once.

    Args:
        logits: logits z, (…, domains, images, classes), two or more images; the mean is over masks as well.
        labels: class y of each image, (domains, images).
        class_weights: factor of the cross-entropy of each class' images, (classes,); by default all are 1.

    Returns:
        ().
    """
    expected = (logits.softmax(-1) * logits).sum(-1)
    slope = expected - logits.gather(-1, labels.expand(expected.shape)[..., None]).squeeze(-1)
    if class_weights is not None:
        slope = slope * class_weights[labels]
    return (slope[..., ::2].mean(-1) * slope[..., 1::2].mean(-1)).mean()
