"""One pass over the training features for many linear probes: their expected losses and gradients under dropout."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor

from ...data.random import torch_seed
from ...runtime import one_thread
from .gaussian import antithetic_normals, contrasts, expected_loss

__all__ = ["Answer", "Passes", "ProbeObjective"]

SAMPLES = 64
"""Number of sampled logits of each image."""

Answer = tuple[float, Tensor]
"""An objective's value and its gradient, (k, units + 1)."""


@dataclass(frozen=True)
class ProbeObjective:
    """An objective: expected cross-entropy, mean over the domains, plus ½·decay·‖V‖².

    Attributes:
        rate: dropout rate λ in [0, 1).
        decay: weight decay, 0 or more; the bias has none.
        domains: indices of the training domains.
        inverse: inverse Hessian at equal probabilities, for one contrast, (units + 1, units + 1).
        weights: factor of each image's loss, (n,), by index of the domain; in domains without one all are 1.
    """

    rate: float
    decay: float
    domains: tuple[int, ...]
    inverse: Tensor
    weights: Mapping[int, Tensor] = field(default_factory=dict)


class Passes:
    """The training features, and the evaluation of many objectives in one pass over them.

    Args:
        domains: features (n, units) and labels (n,), by index of the domain.
        classes: number of classes.
        seed: seed of the sampled logits.
    """

    def __init__(self, domains: dict[int, tuple[Tensor, Tensor]], classes: int, seed: int) -> None:
        self.domains = domains
        self.powers = {domain: x.square() for domain, (x, _) in domains.items()}
        self.basis = contrasts(classes).to(next(iter(self.powers.values())))
        self.normals = {
            domain: antithetic_normals(len(x), classes - 1, SAMPLES, torch_seed("probe", seed, domain)).to(x)
            for domain, (x, _) in domains.items()
        }

    @torch.enable_grad()
    def evaluate(self, objectives: list[ProbeObjective], points: list[Tensor]) -> list[Answer]:
        """Value and gradient of each objective at its point; matrix products are shared between the objectives.

        Args:
            objectives: the objectives.
            points: weights and biases of the contrasts for each objective, (k, units + 1).
        """
        threads = torch.get_num_threads()
        leaf = torch.stack(points).requires_grad_()
        decays = torch.tensor([objective.decay for objective in objectives], dtype=torch.float64)
        decayed = 0.5 * decays * leaf[..., :-1].double().square().sum((1, 2))
        torch.autograd.backward(decayed.sum())
        values = decayed.tolist()
        rows, columns = torch.tril_indices(len(self.basis), len(self.basis))
        for domain, (x, labels) in self.domains.items():
            here = [index for index, objective in enumerate(objectives) if domain in objective.domains]
            noisy = [index for index in here if objectives[index].rate > 0]
            if not here:
                continue
            weights, biases = leaf[..., :-1], leaf[..., -1:]
            means = (weights[here] @ x.T + biases[here]).unbind()
            ratios = torch.tensor([objectives[index].rate / (1 - objectives[index].rate) for index in noisy])
            pairs = ratios[:, None, None].to(x) * weights[noisy][:, rows] * weights[noisy][:, columns]
            spreads = dict(zip(noisy, (pairs @ self.powers[domain].T).unbind(), strict=True))
            same = map(repeat, (labels, self.normals[domain], self.basis))
            with one_thread(), ThreadPoolExecutor(threads) as pool:
                own = [objectives[index].weights.get(domain) for index in here]
                found = list(pool.map(expected_loss, means, map(spreads.get, here), *same, own))
            moments, slopes = [], []
            for index, mean, (loss, by_moments) in zip(here, means, found, strict=True):
                share = 1 / len(objectives[index].domains)
                values[index] += share * loss
                moments += [mean, spreads[index]] if index in spreads else [mean]
                slopes += [share * slope for slope in by_moments]
            torch.autograd.backward(moments, slopes)
        assert leaf.grad is not None
        return list(zip(values, leaf.grad, strict=True))
