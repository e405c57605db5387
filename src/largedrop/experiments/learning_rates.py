"""Which of several learning rates each dropout rate takes on each test domain: the one of best i.i.d. accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..config import Config
from ..errors import RunError
from ..runs.estimate import listing
from ..runs.methods import checkpoint_method
from ..runs.run import Run

__all__ = ["Choice", "arm_of", "choices_of", "rate_lines"]

Arm = tuple[float, tuple[str, ...]]
"""Dropout rate and test domains: the runs of a comparison that differ in seed and learning rate alone."""


def arm_of(config: Config) -> Arm:
    """The arm of a run."""
    return config.dropout, config.test_domains


@dataclass(frozen=True)
class Choice:
    """The learning rate that an arm takes.

    Attributes:
        dropout: dropout rate.
        test_domains: names of the test domains.
        tried: by learning rate, ascending, the i.i.d. accuracy of the best checkpoint (macro accuracy where that
            selects), a fraction; or why there is none.
    """

    dropout: float
    test_domains: tuple[str, ...]
    tried: Mapping[float, float | str]

    @cached_property
    def chosen(self) -> float | None:
        """The learning rate of best i.i.d. accuracy, in a tie the lowest; None where no run has one."""
        return min(self._known, key=lambda rate: (-self._known[rate], rate), default=None)

    @cached_property
    def _known(self) -> dict[float, float]:
        return {rate: round(score, 12) for rate, score in self.tried.items() if not isinstance(score, str)}

    @property
    def further(self) -> float | None:
        """A learning rate to try as well, where the best by itself is the smallest or largest; else None."""
        best = self.chosen
        if best is None or list(self._known.values()).count(self._known[best]) > 1:
            return None
        if best == max(self.tried):
            return float(f"{best * 10 / 3:.0e}")  # 0.0003, 0.001, 0.003, …
        return float(f"{best / 3:.0e}") if best == min(self.tried) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        tried = [
            {"lr": rate, "iid_accuracy": None, "error": score}
            if isinstance(score, str)
            else {"lr": rate, "iid_accuracy": score}
            for rate, score in self.tried.items()
        ]
        where = {"dropout": self.dropout, "test_domains": list(self.test_domains)}
        return {**where, "chosen": self.chosen, "tried": tried, "try_as_well": self.further}


def choices_of(ended: Mapping[Config, Run | RunError]) -> dict[Arm, Choice]:
    """The choice of each arm, from the runs with one seed at each learning rate; by i.i.d. accuracy alone."""
    tried: dict[Arm, dict[float, float | str]] = {}
    for config, outcome in ended.items():
        tried.setdefault(arm_of(config), {})[config.lr] = (
            str(outcome) if isinstance(outcome, RunError) else _score(outcome)
        )
    return {arm: Choice(*arm, dict(sorted(scores.items()))) for arm, scores in tried.items()}


def rate_lines(choices: Iterable[Choice]) -> list[str]:
    """A warning for each dropout rate and each end of the learning rates that was best there."""
    found: dict[tuple[float, float, float, str], list[str]] = {}
    for choice in choices:
        if choice.chosen is not None and choice.further is not None:
            end = "largest" if choice.further > choice.chosen else "smallest"
            where = found.setdefault((choice.dropout, choice.chosen, choice.further, end), [])
            where.append(listing(choice.test_domains) or "the held-out images")
    return [
        f"Dropout {dropout:g} on {listing(where)}: the best learning rate is the {end} that was tried, {best:g}, so "
        f"that a better one may lie beyond. Add {further:g}: only what is missing is trained."
        for (dropout, best, further, end), where in found.items()
    ]


def _score(run: Run) -> float:
    """What selects, of the best checkpoint; of several test domains the runs have the same."""
    best = checkpoint_method(run.config.fit).name
    record = next(each for each in run.records if each.method == best)
    return float(getattr(record, run.config.selecting))
