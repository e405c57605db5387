"""One pass over the training features for many linear probes: their expected losses and gradients under dropout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.random import torch_seed
from .gaussian import antithetic_normals, contrasts, expected_logits

__all__ = ["Answer", "Correction", "Found", "Passes", "Point", "Problem", "direction_of"]


Point = tuple[Tensor, Tensor]
"""Weights and biases of the contrasts between classes, (k, units) and (k,)."""

Answer = tuple[float, Tensor]
"""A loss and its gradient by weights and biases side by side, (k, units + 1)."""


@dataclass(frozen=True)
class Correction:
    """What a round of dropout masks says about a fit to the Gaussian form; see ``solve_probes``.

    Attributes:
        masks: of each image, drawn for this round.
        loss: of the fit before this round, expected cross-entropy by these masks, in nats.
        excess: what that was above the least true expected loss, in nats, by the Gaussian form's curvature: right where
            units are many, far too low for a handful. Estimated from two halves of the masks, so below 0 by chance
            where there is next to none.
        noise: what correcting it in full would have cost for the masks being finitely many, in nats.
        share: of the correction that was made, excess / (excess + noise), from 0 to 1.
    """

    masks: int
    loss: float
    excess: float
    noise: float
    share: float


@dataclass
class Problem:
    """One setting. ``linear`` is what a correction adds to the gradient."""

    rate: float
    decay: float
    domains: tuple[int, ...]
    ratio: float
    inverse: Tensor
    linear: Tensor | None = None


@dataclass
class Found:
    point: Point
    loss: float
    iterations: int
    stopped: str
    history: list[tuple[Tensor, Tensor, float]]


class Passes:
    """The training features, and the objective of many problems in one pass over them."""

    def __init__(self, domains: dict[int, Point], classes: int, samples: int, seed: int) -> None:
        self.domains = domains
        self.powers = {domain: x.square() for domain, (x, _) in domains.items()}
        first = next(iter(domains.values()))[0]
        self.basis = contrasts(classes).to(first)
        self.normals = {
            domain: antithetic_normals(len(x), classes - 1, samples, torch_seed("probe", seed, domain)).to(first)
            for domain, (x, _) in domains.items()
        }
        self.rows, self.columns = torch.tril_indices(classes - 1, classes - 1).unbind()

    def evaluate(self, problems: list[Problem], points: list[Point]) -> list[Answer]:
        """Expected cross-entropy and its gradient, of each problem at its point."""
        losses = [0.0] * len(problems)
        slopes = [torch.zeros(len(bias), weight.shape[1] + 1).to(weight) for weight, bias in points]
        for domain, (x, labels) in self.domains.items():
            here = [place for place, problem in enumerate(problems) if domain in problem.domains]
            if not here:
                continue
            means = (torch.cat([points[place][0] for place in here]) @ x.T).view(len(here), -1, len(x))
            spreads = self._spreads(domain, [problems[place] for place in here], [points[place] for place in here])

            def expect(
                number: int,
                domain: int = domain,
                x: Tensor = x,
                labels: Tensor = labels,
                here: list[int] = here,
                means: Tensor = means,
                spreads: dict[int, Tensor] = spreads,
            ) -> tuple[float, Tensor]:
                """Loss and gradient by the bias; the logits' moments give way to the gradients by them."""
                problem, point = problems[here[number]], points[here[number]]
                share = 1 / (len(x) * len(problem.domains))
                mean, spread = means[number] + point[1][:, None], spreads.get(number)
                if spread is None:
                    loss, by_mean = _plain(mean, labels, self.basis)
                else:
                    loss, by_mean, by_spread = expected_logits(mean, spread, labels, self.normals[domain], self.basis)
                    torch.mul(by_spread, share * problem.ratio, out=spread)
                torch.mul(by_mean, share, out=means[number])
                return float(loss.sum(dtype=torch.float64)) * share, means[number].sum(1)

            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                found = list(pool.map(expect, range(len(here))))
            for place, (loss, by_bias) in zip(here, found, strict=True):
                losses[place] += loss
                slopes[place][:, -1] += by_bias
            for place, slope in zip(here, (means.view(-1, len(x)) @ x).chunk(len(here)), strict=True):
                slopes[place][:, :-1] += slope
            if spreads:
                by_pair = (torch.cat(list(spreads.values())) @ self.powers[domain]).chunk(len(spreads))
                for number, slope in zip(spreads, by_pair, strict=True):
                    weight = points[here[number]][0]
                    target = slopes[here[number]][:, :-1]
                    target.index_add_(0, self.rows, slope * weight[self.columns])
                    target.index_add_(0, self.columns, slope * weight[self.rows])
        return list(zip(losses, slopes, strict=True))

    def _spreads(self, domain: int, problems: list[Problem], points: list[Point]) -> dict[int, Tensor]:
        """Covariances of the logits, (pairs, n_d), for those of the problems that have dropout."""
        noisy = [number for number, problem in enumerate(problems) if problem.ratio > 0]
        if not noisy:
            return {}
        pairs = [problems[n].ratio * points[n][0][self.rows] * points[n][0][self.columns] for n in noisy]
        return dict(zip(noisy, (torch.cat(pairs) @ self.powers[domain].T).chunk(len(noisy)), strict=True))

    def correct(self, problem: Problem, found: Found, masks: int, seed: int, number: int) -> Correction:
        """Measure what masks say beyond the Gaussian form, and move the problem's linear term by it."""
        ((_, gaussian),) = self.evaluate([problem], [found.point])
        (first_loss, first), (second_loss, second) = (
            self._masked(problem, found.point, masks // 2, torch_seed("probe masks", seed, number, half))
            for half in range(2)
        )
        # At the minimum the Gaussian gradient, weight decay's and the term cancel; what is left is the true gradient.
        before = torch.zeros_like(gaussian) if problem.linear is None else problem.linear
        ends = [half - gaussian - before for half in (first, second)]
        newton = [-direction_of(end, found.history, problem.inverse) for end in ends]
        excess = 0.25 * float((newton[0] * ends[1]).sum() + (newton[1] * ends[0]).sum())
        full = 0.125 * float(((newton[0] + newton[1]) * (ends[0] + ends[1])).sum())
        share = min(1.0, max(0.0, excess / full)) if full > 0 else 0.0
        problem.linear = before + 0.5 * share * (ends[0] + ends[1])
        return Correction(masks, (first_loss + second_loss) / 2, excess, full - excess, share)

    def _masked(self, problem: Problem, point: Point, masks: int, seed: int) -> Answer:
        """Cross-entropy and its gradient, averaged over dropout masks."""
        generator = torch.Generator().manual_seed(seed)
        weight, bias = (self.basis.T @ part for part in point)
        total, slope = 0.0, torch.zeros(len(point[1]), weight.shape[1] + 1).to(weight)
        for domain in problem.domains:
            x, labels = self.domains[domain]
            share = 1 / (len(x) * len(problem.domains) * masks)
            for _ in range(masks):
                kept = x * (torch.rand(x.shape, generator=generator) >= problem.rate) / (1 - problem.rate)
                logits = F.linear(kept, weight, bias)
                total += share * float(F.cross_entropy(logits, labels, reduction="sum"))
                error = logits.softmax(1)
                error[torch.arange(len(labels)), labels] -= 1
                error = share * (self.basis @ error.T)
                slope[:, :-1] += error @ kept
                slope[:, -1] += error.sum(1)
        return total, slope


def _plain(mean: Tensor, labels: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy without dropout and its gradient, in contrast coordinates."""
    logits = basis.T @ mean
    error = logits.softmax(0)
    loss = logits.logsumexp(0) - logits.gather(0, labels[None])[0]
    error.scatter_add_(0, labels[None], -torch.ones_like(error[:1]))
    return loss, basis @ error


def direction_of(slope: Tensor, history: list[tuple[Tensor, Tensor, float]], inverse: Tensor) -> Tensor:
    """−H⁻¹·slope by the two-loop recursion."""
    direction = -slope
    shares = []
    for change, bend, both in reversed(history):
        share = float((change * direction).sum()) / both
        shares.append(share)
        direction = direction - share * bend
    found = direction @ inverse
    if history:
        _, bend, both = history[-1]
        found *= both / float(((bend @ inverse) * bend).sum())
    for (change, bend, both), share in zip(history, reversed(shares), strict=True):
        found += (share - float((bend * found).sum()) / both) * change
    return found
