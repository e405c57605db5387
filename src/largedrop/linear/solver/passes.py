"""One pass over the training features for many linear probes: their expected losses and gradients under dropout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from ...data.random import torch_seed
from ...runtime import one_thread
from .gaussian import antithetic_normals, contrasts, expected_loss

__all__ = ["Answer", "Passes", "Setting"]

SAMPLES = 64
"""Sampled logits of each image."""

Answer = tuple[float, Tensor]
"""An objective's value and its gradient, (k, units + 1)."""


@dataclass(frozen=True)
class Setting:
    """An objective: expected cross-entropy, every domain counting the same, plus ½·decay·‖V‖².

    Attributes:
        rate: λ in [0, 1).
        decay: 0 or more, of the weights alone.
        domains: indices of the training domains.
        inverse: of the Hessian where all probabilities are equal, for one contrast, (units + 1, units + 1).
    """

    rate: float
    decay: float
    domains: tuple[int, ...]
    inverse: Tensor


class Passes:
    """The training features, and the objectives of many settings in one pass over them.

    Args:
        domains: features (n, units) and labels (n,) by index of the domain.
        classes: number of classes.
        seed: of the sampled logits.
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
    def evaluate(self, settings: list[Setting], points: list[Tensor]) -> list[Answer]:
        """The objective of each setting at its point; matrix products are shared between the settings.

        Args:
            settings: the objectives.
            points: weights and biases of the contrasts side by side, (k, units + 1), of each setting.
        """
        threads = torch.get_num_threads()
        leaf = torch.stack(points).requires_grad_()
        decays = torch.tensor([setting.decay for setting in settings], dtype=torch.float64)
        decayed = 0.5 * decays * leaf[..., :-1].double().square().sum((1, 2))
        torch.autograd.backward(decayed.sum())
        values = decayed.tolist()
        rows, columns = torch.tril_indices(len(self.basis), len(self.basis))
        for domain, (x, labels) in self.domains.items():
            here = [index for index, setting in enumerate(settings) if domain in setting.domains]
            noisy = [index for index in here if settings[index].rate > 0]
            if not here:
                continue
            weights, biases = leaf[..., :-1], leaf[..., -1:]
            means = (weights[here] @ x.T + biases[here]).unbind()
            ratios = torch.tensor([settings[index].rate / (1 - settings[index].rate) for index in noisy])
            pairs = ratios[:, None, None].to(x) * weights[noisy][:, rows] * weights[noisy][:, columns]
            spreads = dict(zip(noisy, (pairs @ self.powers[domain].T).unbind(), strict=True))
            same = map(repeat, (labels, self.normals[domain], self.basis))
            with one_thread(), ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(expected_loss, means, map(spreads.get, here), *same))
            moments, slopes = [], []
            for index, mean, (loss, by_moments) in zip(here, means, found, strict=True):
                share = 1 / len(settings[index].domains)
                values[index] += share * loss
                moments += [mean, spreads[index]] if index in spreads else [mean]
                slopes += [share * slope for slope in by_moments]
            torch.autograd.backward(moments, slopes)
        assert leaf.grad is not None
        return list(zip(values, leaf.grad, strict=True))
