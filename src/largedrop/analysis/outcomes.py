"""What finished runs say of each image, from their stored logits: classes, confidence, and where two runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..data.dataset import Dataset, IntArray
from ..errors import UserError
from ..measures.calibration import Calibration, calibration, fit_temperature, softmax
from ..runs.logits import read_logits
from ..runs.run import Run

__all__ = ["PARTS", "Outcome", "Pairing", "outcome_of", "pairing_of"]

PARTS = {"iid": "held-out images", "ood": "test domain"}
"""Parts of a split that a run keeps logits of, and what they are called."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What a run's checkpoint of best i.i.d. accuracy says.

    Attributes:
        run: the run.
        temperature: temperature fitted on the held-out images; None where logits are not finite.
        predicted: class of each image of the test domain, (n_ood,).
        right: whether it is right, (n_ood,).
        before: calibration of the softmax of the logits, by part of the split, of all its images together.
        after: the same at the temperature. On the held-out images it was fitted to them.
        accuracy: share of the images of each part that are right.
    """

    run: Run
    temperature: float | None
    predicted: IntArray
    right: Bools
    before: dict[str, Calibration]
    after: dict[str, Calibration]
    accuracy: dict[str, float]


def outcome_of(run: Run, data: Dataset) -> Outcome:
    """Read a run's logits at its best step.

    Raises:
        UserError: there are none, or not of these images.
    """
    split = run.config.split_of(data)
    step = run.result.get("best_step")
    if not isinstance(step, int):
        raise UserError(f"{run.folder.name}: its result.json has no best step")
    labels = {part: data.labels[getattr(split, part)] for part in PARTS}
    shapes = {part: (len(found), len(data.classes)) for part, found in labels.items()}
    logits = read_logits(run.folder, step, run.digest, shapes)
    for part in PARTS:
        if not np.isfinite(logits[part]).all():
            raise UserError(f"{run.folder.name}: its logits contain NaN or infinity")
    temperature = fit_temperature(logits["iid"], labels["iid"], split.iid_domains)
    predicted = logits["ood"].argmax(axis=1)
    return Outcome(
        run=run,
        temperature=temperature,
        predicted=predicted,
        right=predicted == labels["ood"],
        before={part: calibration(softmax(logits[part]), labels[part]) for part in PARTS},
        after={part: calibration(softmax(logits[part], temperature or 1.0), labels[part]) for part in PARTS},
        accuracy={part: float(np.mean(logits[part].argmax(axis=1) == labels[part])) for part in PARTS},
    )


@dataclass(frozen=True)
class Pairing:
    """Plain fine-tuning and dropout on one test domain, with the same seeds.

    Attributes:
        test_domain: name of the domain.
        indices: indices of its images in the dataset, (n,).
        plain: an outcome for each seed, its ``predicted`` and ``right`` of these images alone.
        dropout: an outcome for each seed, in the same order.
    """

    test_domain: str
    indices: IntArray
    plain: tuple[Outcome, ...]
    dropout: tuple[Outcome, ...]

    def only(self, dropout: bool) -> IntArray:
        """Images on which one is right with every seed and the other with none: indices into the dataset."""
        plain, other = (np.stack([each.right for each in found]) for found in (self.plain, self.dropout))
        winner, loser = (other, plain) if dropout else (plain, other)
        return self.indices[winner.all(axis=0) & ~loser.any(axis=0)]


def pairing_of(outcomes: Sequence[Outcome], data: Dataset, test_domain: str, rate: float) -> Pairing | None:
    """The outcomes of rate 0 and of ``rate`` on a test domain, of the seeds that both have; None if there are none."""
    found = {
        (each.run.config.dropout, each.run.config.seed): each
        for each in outcomes
        if test_domain in each.run.config.test_domains
    }
    seeds = [seed for dropout, seed in found if dropout == 0 and (rate, seed) in found]
    if not seeds:
        return None
    split = found[0.0, seeds[0]].run.config.split_of(data)
    here = split.ood_domains == split.test_domains.index(test_domain)
    plain, other = (
        tuple(
            replace(each, predicted=each.predicted[here], right=each.right[here])
            for each in (found[dropout, seed] for seed in seeds)
        )
        for dropout in (0.0, rate)
    )
    return Pairing(test_domain, split.ood[here], plain, other)
