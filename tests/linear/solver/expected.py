"""Two references for the converged solver."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.linear.solver.gaussian import JITTER, TINY, antithetic_normals, contrasts


def masked_loss(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rate: float, masks: int, seed: int = 0
) -> Tensor:
    """Cross-entropy of a head averaged over dropout masks of every example, (n,): the truth but for chance."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(features), dtype=weight.dtype)
    for _ in range(masks):
        kept = torch.rand(features.shape, generator=generator) >= rate
        logits = F.linear(features * kept, weight / (1 - rate), bias)
        total += F.cross_entropy(logits, labels, reduction="none")
    return total / masks


def gaussian_loss(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rate: float, samples: int = 64, seed: int = 0
) -> Tensor:
    """What ``linear.solver.gaussian.expected_loss`` computes for a head, (n,), by automatic differentiation."""
    basis = contrasts(len(weight)).to(weight)
    reduced, ratio = basis @ weight, rate / (1 - rate)
    mean = F.linear(features, reduced) + basis @ bias
    if not ratio:
        return F.cross_entropy(mean @ basis, labels, reduction="none")
    covariance = torch.einsum("au,nu,bu->nab", reduced, ratio * features.square(), reduced)
    peak = JITTER * covariance.detach().diagonal(dim1=1, dim2=2).amax(1) + TINY
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(peak[:, None].expand_as(mean)))
    half = antithetic_normals(len(features), len(basis), samples, seed).to(weight)
    noise = torch.einsum("nab,nbk->nka", factor, half)
    logits = torch.cat([mean[:, None] + noise, mean[:, None] - noise], 1) @ basis
    return (logits.logsumexp(2) - logits.gather(2, labels[:, None, None].expand(-1, samples, 1))[:, :, 0]).mean(1)
