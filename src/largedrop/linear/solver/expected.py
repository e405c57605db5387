"""The expectation of a linear head's loss under dropout: exact for squared loss, in three forms for cross-entropy.

Dropout at rate λ on the input x of a head V, b gives x̃ with mean x and covariance r·diag(x²), r = λ/(1−λ); so the
logits have mean Vx + b and covariance r·V diag(x²) Vᵀ. The bias is never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.random import torch_seed
from ...errors import UserError
from ...models.dropout import check_rate
from .gaussian import JITTER, TINY, antithetic_normals, contrasts

__all__ = [
    "Moments",
    "check_decay",
    "fit_squared",
    "gaussian_loss",
    "masked_loss",
    "noise_ratio",
    "quadratic_loss",
    "squared_loss",
]


def noise_ratio(rate: float) -> float:
    """The variance r = λ/(1−λ) of inverted dropout's multiplier.

    Raises:
        UserError: the rate is not in [0, 1).
    """
    rate = check_rate(rate)
    return rate / (1 - rate)


@dataclass(frozen=True)
class Moments:
    """Sums over examples that squared loss depends on, in float64; those of several domains are added or subtracted.

    Attributes:
        count: Σ w, a scalar.
        inputs: Σ w x, (units,).
        targets: Σ w y, (outputs,).
        gram: Σ w x xᵀ, (units, units).
        cross: Σ w x yᵀ, (units, outputs).
    """

    count: Tensor
    inputs: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, weight: float = 1.0) -> Moments:
        """Of some examples, each weighing ``weight``: 1/n makes a domain count as one, however many images it has.

        Args:
            features: (n, units).
            targets: (n, outputs); class labels as one-hot vectors.
            weight: of each example, above 0.

        Raises:
            UserError: there are no examples, the shapes do not fit, or a number is not finite.
        """
        _check_pairs(features, targets, 2)
        if not weight > 0:
            raise UserError(f"the weight of an example must be above 0, not {weight}")
        x, y = features.double(), targets.double()
        count = torch.tensor(float(len(x)), dtype=torch.float64, device=x.device)
        return cls(weight * count, weight * x.sum(0), weight * y.sum(0), weight * (x.T @ x), weight * (x.T @ y))

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of examples."""
        return Moments(*(mine + theirs for mine, theirs in zip(self._all, other._all, strict=True)))

    def __sub__(self, other: Moments) -> Moments:
        """Of the examples that are not among ``other``'s, which must be among these."""
        return Moments(*(mine - theirs for mine, theirs in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.count, self.inputs, self.targets, self.gram, self.cross


def fit_squared(moments: Moments, rates: Sequence[float], weight_decays: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The head of least expected squared loss under dropout, exactly, for every rate and weight decay.

    Minimises mean ½‖y − Vx̃ − b‖² + ½·decay·‖V‖², which dropout turns into ridge regression with a penalty of
    r·mean(x_j²) on unit j (Wager et al., 2013, section 2): V = (XᵀX + r·diag(XᵀX) + n·decay·I)⁻¹XᵀY. The intercept is
    neither dropped nor decayed: X and Y are centred in the two products, the diagonal's X is not. Units that are always
    zero get the weight zero. Cholesky in float64; all settings share the one Gram matrix.

    Args:
        moments: of the training examples.
        rates: λ in [0, 1).
        weight_decays: 0 or more.

    Returns:
        Weights (rates, weight decays, outputs, units) and biases (rates, weight decays, outputs), float64.

    Raises:
        UserError: a rate or weight decay is out of range, or at λ = 0 without weight decay there is no single minimum.
    """
    ratios = [noise_ratio(rate) for rate in rates]
    decays = [check_decay(decay) for decay in weight_decays]
    mean, target = moments.inputs / moments.count, moments.targets / moments.count
    second = moments.gram / moments.count
    centred = second - torch.outer(mean, mean)
    cross = moments.cross / moments.count - torch.outer(mean, target)
    power = second.diagonal()
    dead = power <= 0
    weights = []
    for ratio in ratios:
        for decay in decays:
            matrix = centred + torch.diag(ratio * power + decay + dead.double())
            factor, failed = torch.linalg.cholesky_ex(matrix)
            # Without noise or decay a singular matrix may pass by rounding alone.
            smallest = float((factor.diagonal() / (matrix.diagonal() + 1e-300).sqrt()).min())
            if int(failed) or (ratio == 0 and decay == 0 and smallest < 1e-7):
                raise UserError(
                    "without dropout or weight decay these features have no single best head (fewer examples than "
                    "units, or units that depend on each other); give a weight decay above 0"
                )
            weights.append(torch.cholesky_solve(cross, factor).T)
    weight = torch.stack(weights).view(len(ratios), len(decays), *weights[0].shape)
    return weight, target - weight @ mean


def squared_loss(features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, rate: float) -> Tensor:
    """E ½‖y − Vx̃ − b‖² = ½‖y − Vx − b‖² + ½ r Σ_j x_j² ‖v_j‖² of every example, exactly, (n,).

    Args:
        features: (n, units).
        targets: (n, outputs).
        weight: V, (outputs, units).
        bias: b, (outputs,).
        rate: λ in [0, 1).
    """
    _check_pairs(features, targets, 2)
    residual = targets - F.linear(features, weight, bias)
    noise = features.square() @ weight.square().sum(0)
    return 0.5 * residual.square().sum(1) + 0.5 * noise_ratio(rate) * noise


def quadratic_loss(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rate: float) -> Tensor:
    """Cross-entropy plus dropout's adaptive L2 penalty, ½ r Σ_j x_j² v_jᵀ(diag p − ppᵀ)v_j, of every example, (n,).

    The second-order approximation of Wager, Wang & Liang (2013, section 3). It is safe for little noise only, is not
    convex, and does not bound the truth: at converged heads on PACS (EfficientNet-Lite0 at 96 pixels, 1280 units) it is
    off by −11 % at λ = 0.5, −2.1 % at 0.9, −0.4 % at 0.95 and +0.9 % at 0.99. The solver does not use it.

    Args:
        features: (n, units).
        labels: (n,), int64.
        weight: V, (classes, units).
        bias: b, (classes,).
        rate: λ in [0, 1).
    """
    _check_pairs(features, labels, 1)
    logits = F.linear(features, weight, bias)
    p = logits.softmax(1)
    power = features.square()
    spread = (p * (power @ weight.square().T)).sum(1) - (power * (p @ weight).square()).sum(1)
    return F.cross_entropy(logits, labels, reduction="none") + 0.5 * noise_ratio(rate) * spread


def masked_loss(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rate: float, masks: int, seed: int = 0
) -> Tensor:
    """Cross-entropy averaged over ``masks`` dropout masks of every example, (n,): the truth, to sampling error.

    For one seed the masks are the same whatever the head, so this is a smooth function of V and b. It is no objective
    to minimise unless n·``masks`` is many times the number of weights: a head can learn fixed masks by heart.

    Args:
        features: (n, units).
        labels: (n,), int64.
        weight: V, (classes, units).
        bias: b, (classes,).
        rate: λ in [0, 1).
        masks: number of masks, 1 or more.
        seed: of the masks; torch's global generator is left as it was.

    Raises:
        UserError: the rate is not in [0, 1), there is no mask, or the shapes do not fit.
    """
    _check_pairs(features, labels, 1)
    rate = check_rate(rate)
    if masks < 1:
        raise UserError(f"an average needs one dropout mask or more, not {masks}")
    generator = torch.Generator(features.device).manual_seed(torch_seed("expected masks", seed))
    total = torch.zeros(len(features), dtype=weight.dtype, device=features.device)
    for _ in range(masks):
        kept = torch.rand(features.shape, generator=generator, device=features.device) >= rate
        logits = F.linear(features * kept, weight / (1 - rate), bias)
        total = total + F.cross_entropy(logits, labels, reduction="none")
    return total / masks


def gaussian_loss(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    rate: float,
    samples: int = 64,
    seed: int = 0,
) -> Tensor:
    """Cross-entropy expected under Gaussian logits of dropout's own mean and covariance, of every example, (n,).

    Fast dropout (Wang & Manning, 2013, section 3): z ~ N(Vx + b, r·V diag(x²) Vᵀ), here by sampled logits, always the
    same standard normals for one seed, so that it is a smooth function of V and b.

    Safe where many units are kept and active: at converged heads on PACS (1280 units, 40 % active) it is off by +0.5 %
    at λ = 0.5, +2.1 % at 0.9, +2.0 % at 0.95 and +0.2 % at 0.99, and its minimum is worse by less (``solve``). With
    few active units a sum of masked terms is no Gaussian; the solver's ``masks`` correct for that.

    Args:
        features: (n, units).
        labels: (n,), int64.
        weight: V, (classes, units), two classes or more.
        bias: b, (classes,).
        rate: λ in [0, 1).
        samples: logits drawn for each example, even.
        seed: of the standard normals; torch's global generator is left as it was.

    Raises:
        UserError: the rate is not in [0, 1), the samples are odd, or the shapes do not fit.
    """
    _check_pairs(features, labels, 1)
    ratio, classes = noise_ratio(rate), len(weight)
    basis = contrasts(classes).to(weight)
    reduced = basis @ weight
    rows, columns = torch.tril_indices(classes - 1, classes - 1).unbind()
    mean = (F.linear(features, reduced) + basis @ bias).T
    covariance = ratio * (reduced[rows] * reduced[columns]) @ features.square().T
    if ratio == 0:
        return F.cross_entropy(mean.T @ basis, labels, reduction="none")
    factor = torch.zeros(len(features), classes - 1, classes - 1, dtype=weight.dtype, device=weight.device)
    factor[:, rows, columns] = covariance.T
    factor[:, columns, rows] = covariance.T  # of a triangle alone, torch's gradient would be half
    peak = factor.diagonal(dim1=1, dim2=2).amax(1)
    factor = torch.linalg.cholesky(factor + torch.diag_embed((JITTER * peak + TINY)[:, None].expand_as(mean.T)))
    half = antithetic_normals(len(features), classes - 1, samples, seed).to(weight)
    noise = torch.einsum("nab,nbk->nka", factor, half)
    logits = torch.cat([mean.T[:, None] + noise, mean.T[:, None] - noise], 1) @ basis
    return (logits.logsumexp(2) - logits.gather(2, labels[:, None, None].expand(-1, samples, 1))[:, :, 0]).mean(1)


def check_decay(decay: float) -> float:
    """Return a weight decay as a float.

    Raises:
        UserError: it is not a finite number of 0 or more.
    """
    value = float(decay)
    if not 0 <= value < float("inf"):
        raise UserError(f"the weight decay must be a finite number of 0 or more, not {decay}")
    return value


def _check_pairs(features: Tensor, targets: Tensor, dimensions: int) -> None:
    """Refuse what is not (n, units) beside n targets, or not finite.

    Raises:
        UserError: with what is wrong.
    """
    if features.ndim != 2 or targets.ndim != dimensions or len(features) != len(targets) or not len(features):
        raise UserError(
            f"features must be (n, units) beside n targets, n ≥ 1, not {tuple(features.shape)} and "
            f"{tuple(targets.shape)}"
        )
    if not bool(features.isfinite().all()):
        raise UserError("the features have values that are not finite (NaN or infinity)")
