"""A linear head fitted on cached features under dropout: the linear probe, and the warm start of short fine-tunings.

Until a new head on a pretrained network has been learned, large dropout adds gradient noise to the backbone that is
λ/(1−λ) times as strong as the signal: at a learning rate that plain fine-tuning survives, the network can then learn to
shrink its representation to zero, since that removes the noise. So short schedules start from a head that has converged
under the dropout of the run.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.random import torch_seed
from ..models.dropout import check_rate
from ..runtime import one_thread

__all__ = ["HeadFit", "HeadRound", "fit_head"]

BATCH = 64
"""Number of images of each training domain in a step."""

GAIN = 0.01
"""A round that lowers the loss by less than this share halves the learning rate."""

HALVINGS = 4
"""The fit has converged once the learning rate was halved this often."""

SMALL = 0.01
"""A loss below this share of log(classes) ends the fit."""


@dataclass(frozen=True)
class HeadRound:
    """The head after a round.

    Attributes:
        steps: number of steps taken so far.
        loss: cross-entropy under dropout on the training features, in nats.
        weight: weights averaged over the round, (classes, units).
        bias: bias averaged over the round, (classes,).
    """

    steps: int
    loss: float
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class HeadFit:
    """The rounds of a fit; the last is the converged head, or where ``converged`` is False the last head."""

    rounds: tuple[HeadRound, ...]
    converged: bool

    @property
    def last(self) -> HeadRound:
        """The head at the end."""
        return self.rounds[-1]


def fit_head(
    features: list[Tensor],
    labels: list[Tensor],
    classes: int,
    dropout: float,
    weight_decay: float,
    seed: int,
    rounds: int = 40,
    round_steps: int = 100,
    weights: list[Tensor] | None = None,
) -> HeadFit:
    """Minimise the expected cross-entropy of a linear head under dropout on its input.

    Adam on equal numbers of images from each domain, at a learning rate proportional to (1 − ``dropout``) and to the
    inverse of the features' root mean square, the weights averaged over each round of steps. The rate is halved
    whenever a round's average no longer lowers the loss by 1 %; after four halvings the head has converged.

    Args:
        features: features of each training domain, float32 (n_d, units); the fit is computed on their device, whose
            generator draws the batches and masks.
        labels: labels of each training domain, int64 (n_d,).
        dropout: dropout rate λ in [0, 1).
        weight_decay: L2 coefficient.
        seed: seed of the batches and masks; torch's global generator is not advanced.
        rounds: largest number of rounds.
        round_steps: number of steps in a round.
        weights: weight of each image in the loss, float32 (n_d,), 1 on average in each domain; by default all are 1.

    Raises:
        UserError: the rate is not in [0, 1).
    """
    check_rate(dropout)
    everything, targets = torch.cat(features), torch.cat(labels)
    own = None if weights is None else torch.cat(weights)
    starts = [0, *itertools.accumulate(len(domain) for domain in features)]
    device = everything.device
    scale = float(everything.square().mean().sqrt()) or 1.0  # features that are all zero have no scale
    # The bias is the last column; its input is always 1 and never dropped.
    weight = torch.zeros(classes, everything.shape[1] + 1, device=device, requires_grad=True)
    rate = 5e-3 * (1 - dropout) / scale
    optimizer = torch.optim.Adam([weight], rate, weight_decay=weight_decay, fused=True)
    found: list[HeadRound] = []
    best, halvings = math.inf, 0
    with one_thread(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number in range(rounds):
            torch.manual_seed(torch_seed("head", seed, number))
            mean = torch.zeros_like(weight, requires_grad=False)
            for _ in range(round_steps):
                chosen = torch.cat(
                    [
                        start + torch.randint(len(domain), (BATCH,), device=device)
                        for start, domain in zip(starts, features)  # noqa: B905
                    ]
                )
                factors = None if own is None else own[chosen]
                weight.grad = _gradient(weight.detach(), everything[chosen], targets[chosen], dropout, factors)
                optimizer.step()
                mean.add_(weight.detach(), alpha=1 / round_steps)
            mean_weight, mean_bias = mean[:, :-1].clone(), mean[:, -1].clone()
            reached = _dropout_loss(features, labels, mean_weight, mean_bias, dropout, seed, weights)
            found.append(HeadRound((number + 1) * round_steps, reached, mean_weight, mean_bias))
            if reached > best * (1 - GAIN):
                rate, halvings = rate / 2, halvings + 1
                optimizer.param_groups[0]["lr"] = rate
            best = min(best, reached)
            if halvings == HALVINGS or reached < SMALL * math.log(classes):
                return HeadFit(tuple(found), converged=True)
    return HeadFit(tuple(found), converged=False)


@torch.no_grad()
def _gradient(weight: Tensor, batch: Tensor, targets: Tensor, dropout: float, factors: Tensor | None = None) -> Tensor:
    """Gradient of the mean cross-entropy under dropout, (p − onehot)ᵀ x̃ / n; the last column is the bias's.

    ``factors`` are the images' weights in the mean, (n,).
    """
    # Whether a unit is kept comes from 16 bits, so the rate is exact to 1/65536, and the scale is that rate's.
    dropped = min(round(dropout * 2**16), 2**16 - 1)
    scale = 2**16 / (2**16 - dropped)
    if dropped:
        batch = batch * _kept(batch.shape, dropped, batch.device)
    logits = torch.addmm(weight[:, -1], batch, weight[:, :-1].t(), alpha=scale)
    error = logits.softmax(1)
    error[torch.arange(len(targets), device=error.device), targets] -= 1
    error /= len(targets)
    if factors is not None:
        error *= factors[:, None]
    return torch.cat([scale * (error.t() @ batch), error.sum(0)[:, None]], 1)


def _kept(shape: torch.Size, dropped: int, device: torch.device) -> Tensor:
    """True with probability 1 − ``dropped``/65536, four values from each draw of torch's generator."""
    count = math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    return drawn.view(torch.int16)[:count].view(shape) >= dropped - 2**15


@torch.no_grad()
def _dropout_loss(
    features: list[Tensor],
    labels: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    seed: int,
    weights: list[Tensor] | None = None,
) -> float:
    """Mean over the domains of the cross-entropy under dropout, always on the same masks, in nats."""
    torch.manual_seed(torch_seed("head loss", seed))
    logits = [F.linear(F.dropout(domain, dropout), weight, bias) for domain in features]
    if weights is None:
        losses = [F.cross_entropy(rows, target) for rows, target in zip(logits, labels, strict=True)]
    else:
        each = [F.cross_entropy(rows, target, reduction="none") for rows, target in zip(logits, labels, strict=True)]
        losses = [(one * own).mean() for one, own in zip(each, weights, strict=True)]
    return float(torch.stack(losses).mean())
