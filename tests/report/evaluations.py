"""Evaluations of models that are right and wrong where a test says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from largedrop.measures.calibration import calibration
from largedrop.measures.coverage import risk_coverage
from largedrop.measures.intervals import mcnemar, scored
from largedrop.prediction.evaluate import Difference, Evaluated, Evaluation, Mistake

CLASSES = ("cat", "dog", "yak")
LABELS = np.repeat([0, 1, 0, 1], 10)
DOMAINS = np.repeat([0, 1], 20)
NAMES = ("day", "night")


def model(name: str, wrong: dict[int, int], temperature: float | None = 2.0) -> tuple[Evaluated, Any]:
    """A model that takes the image at each key for the class, and is right on the others; it does not know the yak."""
    predicted = LABELS.copy()
    for at, label in wrong.items():
        predicted[at] = label
    right = predicted == LABELS
    probabilities = np.eye(3)[predicted] * 0.8 + 0.2 / 3
    each, mean = scored(right, LABELS, DOMAINS, np.arange(40), 3)
    of = {domain: number == DOMAINS for number, domain in enumerate(NAMES)}
    confusion = np.zeros((2, 3, 2), np.int64)
    np.add.at(confusion, (DOMAINS, LABELS, predicted), 1)
    found = Evaluated(
        name=name,
        classes=CLASSES[:2],
        temperatures=(temperature,),
        weights=("0badcafe",),
        domains=dict(zip(NAMES, each, strict=True)),
        mean=mean,
        confusion=dict(zip(NAMES, confusion, strict=True)),
        before={domain: calibration(probabilities[chosen], LABELS[chosen]) for domain, chosen in of.items()},
        after={domain: calibration(probabilities[chosen], LABELS[chosen]) for domain, chosen in of.items()},
        coverage={domain: risk_coverage(probabilities[chosen].max(1), right[chosen]) for domain, chosen in of.items()},
        mistakes=tuple(
            Mistake(at, f"{NAMES[DOMAINS[at]]}/{at}.png", NAMES[DOMAINS[at]], CLASSES[LABELS[at]], CLASSES[label], 0.87)
            for at, label in wrong.items()
        ),
    )
    return found, right


def evaluation(*models: tuple[Evaluated, Any]) -> Evaluation:
    apart = None
    if len(models) > 1:
        first, second = (right for _, right in models)
        each, mean = scored(first, LABELS, DOMAINS, np.arange(40), 3, second)
        only = {
            domain: (int((first & ~second)[number == DOMAINS].sum()), int((second & ~first)[number == DOMAINS].sum()))
            for number, domain in enumerate(NAMES)
        }
        p = {domain: mcnemar(*counts) for domain, counts in only.items()}
        apart = Difference(dict(zip(NAMES, each, strict=True)), mean, only, p)
    facts = {
        "name": "farm",
        "images": 40,
        "domains": {"day": 20, "night": 20},
        "classes": list(CLASSES),
        "fingerprint": "ab" * 32,
        "skipped": 0,
    }
    return Evaluation(facts, CLASSES, tuple(each for each, _ in models), apart, ("a note",))


GOOD = model("runs/good", {0: 1})


BAD = model("runs/bad", {0: 1, 1: 1, **dict.fromkeys(range(20, 30), 1)})
