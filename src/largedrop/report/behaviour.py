"""Plain fine-tuning against dropout, image by image: classes, confusions, confidence, and the images that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..analysis.outcomes import PARTS, Outcome, Pairing, outcome_of, pairing_of
from ..data.dataset import Dataset
from ..errors import UserError
from ..runs.estimate import Estimate, percent, percentage_points
from ..runs.run import Run
from .html import Cells, plain
from .images import Card, Matrix, thumbnail

__all__ = ["Behaviour", "OnDomain", "behaviour_of"]

_CARDS = 6
"""Images that are shown of those on which only one is right."""

_MATRIX = 16
"""Classes of the largest matrix that is shown."""

_MEASURES: tuple[tuple[str, Callable[[Outcome, str], float]], ...] = (
    ("accuracy", lambda each, part: each.accuracy[part]),
    ("confidence", lambda each, part: each.before[part].confidence),
    ("ECE", lambda each, part: each.before[part].ece),
    ("ECE at T", lambda each, part: each.after[part].ece),
    ("Brier", lambda each, part: each.before[part].brier or 0.0),
    ("Brier at T", lambda each, part: each.after[part].brier or 0.0),
)
"""What the table of confidence shows, in %."""


@dataclass(frozen=True)
class OnDomain:
    """What differs on a test domain.

    Attributes:
        name: name of the domain.
        classes: rows of class, images, plain, dropout and difference.
        matrices: of plain fine-tuning and of dropout, over all seeds; none where there are many classes.
        only: number of images on which only plain fine-tuning is right, and only dropout, with every seed.
        plain: some of the former; ``dropout``: some of the latter.
    """

    name: str
    classes: list[Cells]
    matrices: list[Matrix]
    only: tuple[int, int]
    plain: list[Card]
    dropout: list[Card]


@dataclass(frozen=True)
class Behaviour:
    """What the page shows.

    Attributes:
        rate: the rate that is compared with none.
        seeds: number of seeds that both have on every test domain.
        confidence: rows of the table of confidence, below ``heads``.
        temperatures: of plain fine-tuning and of dropout, mean over runs.
        domains: by test domain.
        notes: lines about runs that cannot be read.
    """

    rate: float
    seeds: int
    confidence: list[Cells]
    temperatures: tuple[float, float]
    domains: list[OnDomain]
    notes: list[str] = field(default_factory=list)
    heads: tuple[str, ...] = ("images", "", *(name for name, _ in _MEASURES))


def behaviour_of(runs: Iterable[Run], data: Dataset, test_domains: Sequence[str], rate: float) -> Behaviour | None:
    """Compare plain fine-tuning with a dropout rate; None where no test domain has a seed of both."""
    outcomes, notes = [], []
    for run in runs:
        if run.config.fit != "all" or run.config.dropout not in (0, rate) or not run.config.test_domains:
            continue
        try:
            outcomes.append(outcome_of(run, data))
        except UserError as error:
            notes.append(str(error))
    found = [pairing_of(outcomes, data, domain, rate) for domain in test_domains]
    pairings = [each for each in found if each is not None]
    if not pairings:
        return None
    temperatures = [
        float(np.mean([each.temperature for pairing in pairings for each in side(pairing) if each.temperature]))
        for side in _SIDES
    ]
    return Behaviour(
        rate=rate,
        seeds=len(_shared_seeds(pairings)),
        confidence=_confidence(pairings, rate),
        temperatures=(temperatures[0], temperatures[1]),
        domains=[_on_domain(each, data) for each in pairings],
        notes=notes,
    )


def _plain_side(pairing: Pairing) -> tuple[Outcome, ...]:
    return pairing.plain


def _dropout_side(pairing: Pairing) -> tuple[Outcome, ...]:
    return pairing.dropout


_SIDES = (_plain_side, _dropout_side)


def _shared_seeds(pairings: Sequence[Pairing]) -> list[int]:
    each = [{outcome.run.config.seed for outcome in pairing.plain} for pairing in pairings]
    return sorted(set.intersection(*each))


def _confidence(pairings: Sequence[Pairing], rate: float) -> list[Cells]:
    """Mean and standard error over seeds of the mean over test domains: plain, dropout, and the difference."""
    seeds, rows = _shared_seeds(pairings), []
    if not seeds:
        return []
    for part, called in PARTS.items():
        columns: list[list[str]] = []
        for _, measure in _MEASURES:
            sides = [
                np.array([np.mean([measure(_of(side(each), seed), part) for each in pairings]) for seed in seeds])
                for side in _SIDES
            ]
            one, other = (percent(Estimate.of(values)) for values in sides)
            columns.append([one, other, percentage_points(Estimate.of(sides[1] - sides[0]))])
        for line, name in enumerate(("plain", f"dropout {rate:g}", "difference")):
            cells = [column[line] for column in columns]
            rows.append(plain(called if line == 0 else "", name, *cells))
    return rows


def _of(outcomes: Sequence[Outcome], seed: int) -> Outcome:
    return next(each for each in outcomes if each.run.config.seed == seed)


def _on_domain(pairing: Pairing, data: Dataset) -> OnDomain:
    labels = data.labels[pairing.indices]
    rows = []
    for label in np.unique(labels):
        of = labels == label
        shares = [np.array([each.right[of].mean() for each in side(pairing)]) for side in _SIDES]
        cells = [percent(Estimate.of(values)) for values in shares]
        apart = percentage_points(Estimate.of(shares[1] - shares[0]))
        rows.append(plain(data.classes[label], f"{int(of.sum()):,}", *cells, apart))
    only = pairing.only(False), pairing.only(True)
    return OnDomain(
        name=pairing.test_domain,
        classes=rows,
        matrices=[
            _matrix(side(pairing), labels, data, title)
            for side, title in zip(_SIDES, ("plain", "with dropout"), strict=True)
        ]
        if len(data.classes) <= _MATRIX
        else [],
        only=(len(only[0]), len(only[1])),
        plain=_cards(only[0], pairing, data),
        dropout=_cards(only[1], pairing, data),
    )


def _matrix(outcomes: Sequence[Outcome], labels: Any, data: Dataset, title: str) -> Matrix:
    counts = np.zeros((len(data.classes), len(data.classes)), np.int64)
    for each in outcomes:
        np.add.at(counts, (labels, each.predicted), 1)
    return Matrix.of(title, data.classes, data.classes, counts)


def _cards(indices: Any, pairing: Pairing, data: Dataset) -> list[Card]:
    """Cards of images, evenly spaced among all, with what each side says of them with its first seed."""
    spaced = np.unique(np.linspace(0, len(indices) - 1, min(_CARDS, len(indices))).round().astype(np.int64))
    place = {int(index): at for at, index in enumerate(pairing.indices)}
    cards = []
    for index in indices[spaced]:
        at = place[int(index)]
        said = [data.classes[side(pairing)[0].predicted[at]] for side in _SIDES]
        name = data.classes[data.labels[index]]
        cards.append(
            Card(thumbnail(data.images[int(index)]), data.keys[index], name, f"plain: {said[0]}, dropout: {said[1]}")
        )
    return cards
