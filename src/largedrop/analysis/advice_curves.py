"""Accuracies of linear heads under dropout on frozen features, each training domain held out in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import Config, make_config
from ..data.dataset import Dataset, IntArray
from ..data.random import generator
from ..errors import UserError
from ..linear.problem import Problem
from ..linear.sgd.train import train_linear
from ..linear.solver.solve import MOST_CLASSES, solve_probes
from ..models.dropout import check_rate
from ..reporter import SILENT, Reporter
from ..runs.estimate import Estimate, listing
from ..training.evaluation import mean_over_domains

__all__ = ["RATES", "SEEDS", "Curves", "Point", "check_rates", "measure"]


RATES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)

SEEDS = (0, 1)

MOST_IMAGES = 4_000
"""Of each domain, training and held-out ones each, so that large datasets take a minute too."""

LARGE = 100_000

LEAST_IMAGES = 10
"""A domain of fewer images is trained on, but not held out: its accuracy would be anything."""

TOLERANCE = 1e-5
"""Of the heads' objective, where they count as converged. It must be small: heads without dropout converge last, and at
1e-3 they were 2 to 8 points worse on held-out domains of PACS, which would have looked like a gain from dropout."""


FloatArray = npt.NDArray[np.float64]

Head = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Point:
    """A rate of the curve; fractions, means over the held-out domains (each a mean over seeds) ± standard error.

    Attributes:
        rate: λ.
        iid: accuracy on held-out images, the mean over the domains that were trained on.
        ood: accuracy on a domain that was not; None where none could be held out.
        gain: ``ood`` over that without dropout, paired by domain and seed; None at rate 0.
        above: held-out domains that gain.
        by_seed: the gain's mean and standard error over the splits, for these domains; what more images would narrow.
    """

    rate: float
    iid: Estimate
    ood: Estimate | None
    gain: Estimate | None
    above: int
    by_seed: Estimate | None


@dataclass(frozen=True, eq=False)
class Curves:
    """Accuracies of linear heads under dropout.

    Attributes:
        rates: λ, ascending, 0 first.
        train_domains: that were looked at.
        held_out: those of them that were held out in turn.
        seeds: of the i.i.d. splits.
        iid: accuracy on held-out images, the mean over the domains trained on, (rates, held-out domains, seeds);
            (rates, 1, seeds) where no domain could be held out.
        ood: accuracy on the held-out domain, (rates, held-out domains, seeds).
        notes: what a reader should know of them, in lines.
    """

    rates: tuple[float, ...]
    train_domains: tuple[str, ...]
    held_out: tuple[str, ...]
    seeds: tuple[int, ...]
    iid: FloatArray
    ood: FloatArray
    notes: tuple[str, ...] = ()

    @property
    def gains(self) -> FloatArray:
        """``ood`` less that of rate 0, (rates, held-out domains, seeds)."""
        return self.ood - self.ood[:1]

    def point(self, rate: float) -> Point:
        """What was measured at one of the rates."""
        place = self.rates.index(rate)
        gains, held = self.gains[place], bool(self.held_out)
        return Point(
            rate,
            Estimate.of(self.iid[place].mean(1)),
            Estimate.of(self.ood[place].mean(1)) if held else None,
            Estimate.of(gains.mean(1)) if held and rate else None,
            int((gains.mean(1) > 0).sum()),
            Estimate.of(gains.mean(0)) if held and rate else None,
        )


def measure(
    data: Dataset,
    features: npt.NDArray[Any],
    *,
    unseen: Sequence[str] = (),
    rates: Iterable[float] = RATES,
    seeds: Iterable[int] = SEEDS,
    held_out: float = 0.2,
    weight_decay: float = Config.weight_decay,
    reporter: Reporter = SILENT,
) -> Curves:
    """The i.i.d. and the leave-one-domain-out accuracy of linear heads under dropout.

    Each training domain is held out in turn; a head is fitted on the training images of the others, as
    ``Dataset.split`` splits them, and scored on their held-out images and on all of the held-out domain. Images of a
    class that no other domain has are not counted, since no head could be right.

    Args:
        data: the dataset. Nothing of the images of domains in ``unseen`` is read, neither features nor labels.
        features: of every image of ``data``, (images, units).
        unseen: domains that are never looked at.
        rates: λ; 0 is added.
        seeds: of the splits.
        held_out: share of the i.i.d. images.
        weight_decay: of the heads.
        reporter: told of the work, len(data) in all.

    Raises:
        UserError: no domain or no seed is left, rates are out of range, or there are too few images.
    """
    wanted, seeds = check_rates(rates), tuple(seeds)
    if not seeds:
        raise UserError("there is no seed to split by")
    numbers = [data.domain_index(domain) for domain in unseen]
    rows = np.flatnonzero(~np.isin(data.domain_ids, numbers))
    known = replace(data, labels=data.labels[rows], domain_ids=data.domain_ids[rows], groups=data.groups[rows])
    domains = tuple(domain for domain in data.domains if len(known.indices(domain)))
    if not domains:
        raise UserError(f"without {listing(unseen)}, {data.name} has no domain to learn from")
    held, notes = _can_be_held_out(known, domains)
    if any(len(known.indices(domain)) > MOST_IMAGES for domain in domains):
        notes.append(f"Of each domain, {MOST_IMAGES:,} images at most were trained on and scored on, drawn by seed.")
    if len(rows) > LARGE:
        notes.append(
            f"There are {len(rows):,} images. The paper finds that so many want less dropout: about 0.5 where there "
            "were 586,000 (figure 4)."
        )
    places = {domain: number for number, domain in enumerate(domains)}
    subsets = [tuple(n for n in places.values() if n != places[domain]) for domain in held] or [tuple(places.values())]
    iid = np.empty((len(wanted), len(subsets), len(seeds)))
    ood = np.empty((len(wanted), len(held), len(seeds)))
    for column, seed in enumerate(seeds):
        images = _Images(known, rows, features, domains, seed, held_out)
        heads, more = _heads(images, subsets, wanted, weight_decay, seed, len(data.classes))
        notes += more
        for number, subset in enumerate(subsets):
            inside = images.of("iid", subset)
            iid_domains = np.repeat(subset, [len(images.iid[place]) for place in subset])
            classes = np.unique(np.concatenate([known.labels[images.train[place]] for place in subset]))
            outside = images.whole(places[held[number]], classes) if held else None
            for line, head in enumerate(heads[number]):
                iid[line, number, column] = mean_over_domains(_right(head, *inside), iid_domains)
                if outside is not None:
                    ood[line, number, column] = _right(head, *outside).mean()
        reporter.advance(len(data) / len(seeds))
    return Curves(wanted, domains, held, seeds, iid, ood, tuple(dict.fromkeys(notes)))


class _Images:
    """The features of a split's images; ``train`` and ``iid`` index into ``known``, one array for each domain."""

    def __init__(
        self,
        known: Dataset,
        rows: IntArray,
        features: npt.NDArray[Any],
        domains: Sequence[str],
        seed: int,
        held_out: float,
    ) -> None:
        self.known, self.rows, self.features, self.seed = known, rows, features, seed
        out = known._held_out(seed, held_out)
        self.all = [known.indices(domain) for domain in domains]
        self.train = [self._some(indices[~out[indices]]) for indices in self.all]
        self.iid = [self._some(indices[out[indices]]) for indices in self.all]

    def of(self, kind: str, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features and labels of the ``train`` or ``iid`` images of some domains."""
        parts: list[IntArray] = getattr(self, kind)
        return self._read(np.concatenate([parts[place] for place in places]))

    def whole(self, place: int, classes: IntArray) -> tuple[Tensor, Tensor]:
        """All of a domain that is of some classes."""
        indices = self.all[place]
        return self._read(self._some(indices[np.isin(self.known.labels[indices], classes)]))

    def _read(self, indices: IntArray) -> tuple[Tensor, Tensor]:
        values = np.asarray(self.features[self.rows[indices]], np.float32)
        return torch.from_numpy(values), torch.from_numpy(self.known.labels[indices])

    def _some(self, indices: IntArray) -> IntArray:
        if len(indices) <= MOST_IMAGES:
            return indices
        drawn = generator("advice", self.seed).permutation(len(indices))[:MOST_IMAGES]
        return indices[np.sort(drawn)]


def _heads(
    images: _Images, subsets: list[tuple[int, ...]], rates: tuple[float, ...], decay: float, seed: int, classes: int
) -> tuple[list[list[Head]], list[str]]:
    """Weights and biases, subset by subset and rate by rate, and what a reader should know of them."""
    if not all(sum(len(images.iid[place]) for place in subset) for subset in subsets):
        raise UserError(f"{images.known.name} has too few images: none could be held out for the i.i.d. accuracy")
    parts = [images.of("train", [place]) for place in range(len(images.train))]
    if classes <= MOST_CLASSES:
        fits = solve_probes(
            [x for x, _ in parts],
            [y for _, y in parts],
            classes,
            rates,
            decay,
            subsets,
            tolerance=TOLERANCE,
            seed=seed,
        )
        heads = [(fit.weight, fit.bias) for fit in fits]
        cut = sorted({f"{fit.rate:g}" for fit in fits if fit.stopped == "limit"})
        notes = [f"Heads at {listing(cut)} did not converge; their accuracies are off."] if cut else []
        return _by_subset(heads, len(rates)), notes
    # The converged solver needs classes² numbers for each image.
    inputs, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]).numpy()
    ends = np.cumsum([len(y) for _, y in parts])
    spans = [np.arange(end - len(y), end, dtype=np.int64) for end, (_, y) in zip(ends, parts, strict=True)]
    config = make_config(
        **{"data": "", "fingerprint": "", "test_domain": ""}, fit="probe", weight_decay=decay, seed=seed
    )
    tasks = []
    for subset in subsets:
        train = tuple(spans[place] for place in subset)
        some = train[0][:1]  # nothing is selected here
        problem = Problem((inputs,), (inputs.shape[1],), labels, train, some, np.zeros_like(some), some, classes)
        tasks += [(problem, replace(config, dropout=rate, eval_every=config.steps)) for rate in rates]
    results = train_linear(tasks)
    if any(result.diverged_at is not None for result in results):
        raise UserError(f"linear heads diverge on these features at a learning rate of {config.lr:g}")
    note = (
        f"With {classes} classes the heads were trained by {config.steps:,} steps of gradient descent, and not to "
        "convergence; fine-tuning more or less long may want another rate."
    )
    return _by_subset([(result.last_model.weight, result.last_model.bias) for result in results], len(rates)), [note]


def _by_subset(heads: list[Head], rates: int) -> list[list[Head]]:
    return [heads[start : start + rates] for start in range(0, len(heads), rates)]


def _right(head: Head, features: Tensor, labels: Tensor) -> npt.NDArray[np.bool_]:
    """Whether each of some images is classified correctly."""
    found: npt.NDArray[np.bool_] = (F.linear(features, *head).argmax(1) == labels).numpy()
    return found


def check_rates(rates: Iterable[float]) -> tuple[float, ...]:
    """The rates in order, with 0; UserError where one is out of range or none is above 0."""
    found = tuple(sorted({0.0, *(check_rate(rate) for rate in rates)}))
    if len(found) < 2:
        raise UserError("there is no dropout rate above 0 to advise on")
    return found


def _can_be_held_out(known: Dataset, domains: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Which domains can be held out, and what a reader should know of that."""
    present = {domain: set(known.labels[known.indices(domain)].tolist()) for domain in domains}
    held, notes = [], []
    for domain in domains if len(domains) > 1 else ():
        others = set().union(*(present[other] for other in domains if other != domain))
        shared = present[domain] & others
        count = sum(int(label) in shared for label in known.labels[known.indices(domain)])
        if count < LEAST_IMAGES or len(others) < 2:
            why = (
                f"has {count} image{'s' * (count != 1)} of classes that others have, fewer than {LEAST_IMAGES}"
                if count < LEAST_IMAGES
                else "is the only one with a second class"
            )
            notes.append(f"The domain '{domain}' is trained on but not held out: it {why}.")
            continue
        held.append(domain)
        if alone := sorted(known.classes[label] for label in present[domain] - others):
            notes.append(
                f"No other domain has {listing(alone)}; these images are not counted where '{domain}' is held out."
            )
    return tuple(held), notes
