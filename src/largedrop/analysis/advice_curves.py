"""Accuracies of linear heads under dropout on frozen features, each training domain held out in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import Config, make_config
from ..data.dataset import Dataset, IntArray
from ..data.random import generator
from ..errors import UserError
from ..linear.problem import Problem
from ..linear.sgd.result import LinearModel
from ..linear.sgd.train import train_linear
from ..linear.solver.solve import MOST_CLASSES, solve_probes
from ..models.dropout import check_rate
from ..reporter import SILENT, Reporter
from ..runs.estimate import Estimate, listing
from ..training.class_weights import balancing_weights, class_weights
from ..training.evaluation import macro_over_domains, mean_over_domains

__all__ = ["RATES", "SEEDS", "Curves", "Point", "Weighing", "check_rates", "measure"]

RATES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)

SEEDS = (0, 1)

MOST_IMAGES = 4_000
"""Largest number of training and of held-out images of each domain, so that large datasets take a minute too."""

LARGE = 100_000

LEAST_IMAGES = 10
"""A domain of fewer images is trained on, but not held out, since its accuracy would be too noisy."""

TOLERANCE = 1e-5
"""Relative tolerance of the heads' objective. It must be small: heads without dropout converge last, and at 1e-3 they
were 2 to 8 percentage points worse on held-out domains of PACS, which would have looked like a gain from dropout."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weighing:
    """How classes count; the fields are those of ``Config``."""

    balance: bool = Config.balance
    class_weights: str = Config.class_weights
    select_by: str = Config.select_by

    @property
    def macro(self) -> bool:
        """Whether accuracies are macro accuracies."""
        return self.select_by == "iid-macro"

    def check(self) -> None:
        """Raise UserError where a value is invalid, or two say the same."""
        make_config(**_NO_DATA, **asdict(self))

    def of(self, labels: Sequence[IntArray], classes: int) -> list[npt.NDArray[np.float64]] | None:
        """The weight of each image in the loss, from the labels of each training domain; None where all are 1."""
        if self.balance:
            return [balancing_weights(own) for own in labels]
        if self.class_weights == "none":
            return None
        ends = np.cumsum([len(own) for own in labels])
        spans = [np.arange(end - len(own), end, dtype=np.int64) for end, own in zip(ends, labels, strict=True)]
        weights = class_weights(np.concatenate(labels), spans, classes)
        return [weights[own] for own in labels]

    def notes(self) -> Iterator[str]:
        """Lines about it for readers."""
        if self.balance or self.class_weights != "none":
            yield "The heads are fitted with the classes weighed equally, as the training would be."
        if self.macro:
            yield "Accuracies are macro accuracies, means over the classes."


_NO_DATA = {"data": "", "fingerprint": "", "test_domain": ""}


@dataclass(frozen=True)
class Point:
    """The accuracies at one rate: fractions, means over the held-out domains (each a mean over seeds) ± standard error.

    Attributes:
        rate: dropout rate λ.
        iid: accuracy on held-out images, mean over the training domains.
        ood: accuracy on the held-out domain; None where no domain could be held out.
        gain: ``ood`` less that at rate 0, paired by domain and seed; None at rate 0.
        above: number of held-out domains with a gain above 0.
        by_seed: gain, mean and standard error over the splits, for these domains.
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
        rates: dropout rates λ, ascending, 0 first.
        train_domains: names of the training domains.
        held_out: names of the training domains that were held out in turn.
        seeds: seeds of the i.i.d. splits.
        iid: accuracy on held-out images, mean over the training domains, (rates, held-out domains, seeds); (rates, 1,
            seeds) where no domain could be held out.
        ood: accuracy on the held-out domain, (rates, held-out domains, seeds).
        notes: lines about the measurement for readers.
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

    @property
    def points(self) -> tuple[Point, ...]:
        """The accuracies at each rate."""
        return tuple(map(self._point, range(len(self.rates))))

    def _point(self, index: int) -> Point:
        gains = self.gains[index] if self.held_out and index else None
        return Point(
            self.rates[index],
            Estimate.of(self.iid[index].mean(1)),
            Estimate.of(self.ood[index].mean(1)) if self.held_out else None,
            None if gains is None else Estimate.of(gains.mean(1)),
            0 if gains is None else int((gains.mean(1) > 0).sum()),
            None if gains is None else Estimate.of(gains.mean(0)),
        )


def measure(
    data: Dataset,
    features: npt.NDArray[Any],
    *,
    unseen: Sequence[str] = (),
    rates: Iterable[float] = RATES,
    seeds: Iterable[int] = SEEDS,
    weighing: Weighing = Weighing(),
    reporter: Reporter = SILENT,
) -> Curves:
    """The i.i.d. and the leave-one-domain-out accuracy of linear heads under dropout.

    Each training domain is held out in turn; a head is fitted on the training images of the others, as
    ``Dataset.split`` splits them, and scored on their held-out images and on the whole held-out domain. Images of a
    class that no other domain has are not counted, since no head was trained on the class.

    Args:
        data: the dataset.
        features: features of every image of ``data``, (images, units).
        unseen: names of domains whose features and labels are not read.
        rates: dropout rates λ; 0 is added.
        seeds: seeds of the i.i.d. splits, at least one.
        weighing: how classes count in the heads' loss and in the accuracies.
        reporter: receives the work, len(data) in total.

    Raises:
        UserError: no domain remains, rates are out of range, or there are too few images.
    """
    chosen, seeds = check_rates(rates), tuple(seeds)
    numbers = [data.domain_index(domain) for domain in unseen]
    rows = np.flatnonzero(~np.isin(data.domain_ids, numbers))
    known = replace(
        data,
        labels=data.labels[rows],
        domain_ids=data.domain_ids[rows],
        groups=data.groups[rows],
        parts=None if data.parts is None else data.parts[rows],
    )
    members = {domain: indices for domain in data.domains if len(indices := known.trainable(domain))}
    if not members:
        raise UserError(f"without {listing(unseen)}, {data.name} has no domain to learn from")
    domains = tuple(members)
    held, notes = _can_be_held_out(known, members)
    notes += weighing.notes()
    if any(len(indices) > MOST_IMAGES for indices in members.values()):
        notes.append(f"Of each domain, {MOST_IMAGES:,} images at most were trained on and scored on, drawn by seed.")
    if len(rows) > LARGE:
        notes.append(
            f"There are {len(rows):,} images. The paper finds that less dropout is better then: about 0.5 with 586,000 "
            "(figure 4)."
        )

    def read(indices: IntArray) -> tuple[Tensor, Tensor]:
        values = np.asarray(features[rows[indices]], np.float32)
        return torch.from_numpy(values), torch.from_numpy(known.labels[indices])

    everything = tuple(range(len(domains)))
    subsets = [tuple(n for n in everything if domains[n] != domain) for domain in held] or [everything]
    iid = np.empty((len(chosen), len(subsets), len(seeds)))
    ood = np.empty((len(chosen), len(held), len(seeds)))
    for column, seed in enumerate(seeds):
        out = known._held_out(seed, Config.held_out)
        train = [_some(indices[~out[indices]], seed) for indices in members.values()]
        if none := [domain for domain, part in zip(domains, train, strict=True) if not len(part)]:
            raise UserError(f"the split that was given has no image of '{none[0]}' to train on")
        inner = [_some(indices[out[indices]], seed) for indices in members.values()]
        if not all(any(len(inner[n]) for n in subset) for subset in subsets):
            raise UserError(f"{data.name} has too few images: none could be held out for the i.i.d. accuracy")
        heads, more = _heads([read(part) for part in train], subsets, chosen, seed, len(data.classes), weighing)
        notes += more
        for index, subset in enumerate(subsets):
            own = heads[index * len(chosen) : (index + 1) * len(chosen)]
            inside = read(np.concatenate([inner[n] for n in subset]))
            domain_of = np.repeat(subset, [len(inner[n]) for n in subset])
            iid[:, index, column] = [_accuracy(head, *inside, domain_of, weighing.macro) for head in own]
            if held:
                classes = np.unique(np.concatenate([known.labels[train[n]] for n in subset]))
                indices = members[held[index]]
                outside = read(_some(indices[np.isin(known.labels[indices], classes)], seed))
                ood[:, index, column] = [_accuracy(head, *outside, None, weighing.macro) for head in own]
        reporter.advance(len(data) / len(seeds))
    return Curves(chosen, domains, held, seeds, iid, ood, tuple(dict.fromkeys(notes)))


def check_rates(rates: Iterable[float]) -> tuple[float, ...]:
    """The rates ascending, with 0; UserError where one is out of range or none is above 0."""
    found = tuple(sorted({0.0, *(check_rate(rate) for rate in rates)}))
    if len(found) < 2:
        raise UserError("there is no dropout rate above 0 to advise on")
    return found


def _can_be_held_out(known: Dataset, members: Mapping[str, IntArray]) -> tuple[tuple[str, ...], list[str]]:
    """The domains that can be held out, and lines about the others for readers."""
    held, notes = [], []
    for domain, indices in members.items() if len(members) > 1 else ():
        rest = np.concatenate([known.labels[part] for other, part in members.items() if other != domain])
        shared = np.isin(known.labels[indices], rest)
        count = int(shared.sum())
        if count < LEAST_IMAGES or len(np.unique(rest)) < 2:
            why = (
                f"has {count} image{'s' * (count != 1)} of classes that others have, fewer than {LEAST_IMAGES}"
                if count < LEAST_IMAGES
                else "is the only one with a second class"
            )
            notes.append(f"The domain '{domain}' is trained on but not held out: it {why}.")
            continue
        held.append(domain)
        if alone := sorted({known.classes[label] for label in known.labels[indices[~shared]]}):
            notes.append(
                f"No other domain has {listing(alone)}; these images are not counted where '{domain}' is held out."
            )
    return tuple(held), notes


def _some(indices: IntArray, seed: int) -> IntArray:
    """At most ``MOST_IMAGES`` of ``indices``, ascending."""
    if len(indices) <= MOST_IMAGES:
        return indices
    return indices[np.sort(generator("advice", seed).permutation(len(indices))[:MOST_IMAGES])]


def _heads(
    parts: list[tuple[Tensor, Tensor]],
    subsets: list[tuple[int, ...]],
    rates: tuple[float, ...],
    seed: int,
    classes: int,
    weighing: Weighing,
) -> tuple[list[LinearModel], list[str]]:
    """Heads, subset by subset and rate by rate, and lines about them for readers.

    Args:
        parts: features and labels of each domain.
        subsets: indices of the domains to train on.
        rates: dropout rates λ.
        seed: seed of the fits.
        classes: number of classes.
        weighing: how classes count.
    """
    inputs, labels = ([part[which] for part in parts] for which in range(2))
    decay = Config.weight_decay
    if classes <= MOST_CLASSES:
        weights = [weighing.of([labels[n].numpy() for n in subset], classes) or [] for subset in subsets]
        own = [list(map(torch.from_numpy, each)) for each in weights] if all(weights) else None
        fits = solve_probes(inputs, labels, classes, rates, decay, subsets, weights=own, tolerance=TOLERANCE, seed=seed)
        cut = sorted({f"{fit.rate:g}" for fit in fits if fit.stopped == "limit"})
        notes = [f"Heads at {listing(cut)} did not converge; their accuracies are inexact."] if cut else []
        return [LinearModel(fit.weight, fit.bias) for fit in fits], notes
    ends = np.cumsum([len(part) for part in labels])
    spans = [np.arange(end - len(part), end, dtype=np.int64) for end, part in zip(ends, labels, strict=True)]
    balance = weighing.balance or weighing.class_weights != "none"
    config = make_config(**_NO_DATA, fit="probe", weight_decay=decay, seed=seed, balance=balance)
    table, targets = torch.cat(inputs), torch.cat(labels).numpy()
    tasks = []
    for subset in subsets:
        train = tuple(spans[n] for n in subset)
        some, none = train[0][:1], train[0][:0]  # nothing is selected here
        first = np.zeros_like(some)
        problem = Problem((table,), (table.shape[1],), targets, train, some, first, none, none, (), classes)
        tasks += [(problem, replace(config, dropout=rate, eval_every=config.steps)) for rate in rates]
    results = train_linear(tasks)
    if any(result.diverged_at is not None for result in results):
        raise UserError(f"linear heads diverge on these features at a learning rate of {config.lr:g}")
    note = (
        f"With {classes} classes the heads were trained by {config.steps:,} steps of gradient descent, and not to "
        "convergence; another rate may be better for shorter or longer fine-tuning."
    )
    return [result.last_model for result in results], [note]


def _accuracy(head: LinearModel, features: Tensor, labels: Tensor, domains: IntArray | None, macro: bool) -> float:
    """The accuracy, or the macro accuracy, mean over the domains; where None are given the images are of one."""
    right: npt.NDArray[np.bool_] = (head(features).argmax(1) == labels).numpy()
    if macro:
        one = np.zeros(len(right), np.int64)
        return float(macro_over_domains(right, labels.numpy(), one if domains is None else domains))
    return float(right.mean() if domains is None else mean_over_domains(right, domains))
