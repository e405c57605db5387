"""Greedy soups: averages of some of several trajectories' weights (Wortsman et al., 2022a)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..runs.checkpoint import read_tensors
from .averaging import WeightAverage, check_finite, check_origins

__all__ = ["Candidate", "GreedySoup", "Tasting", "greedy_soup"]


@dataclass(frozen=True)
class Candidate:
    """Weights that may go into a greedy soup; they are loaded when they are needed, and let go again.

    Attributes:
        name: for the log.
        load: gives the state dict when called, or is the path of a largedrop checkpoint.
        score: i.i.d. score of these weights alone, if it is known already; otherwise it is measured.
        origin: what they were fine-tuned from (a digest of the pretrained weights), where that is known.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]] | str | Path
    score: float | None = None
    origin: str | None = None


@dataclass(frozen=True)
class Tasting:
    """What a greedy soup did with one candidate.

    Attributes:
        name: of the candidate.
        score: its own i.i.d. score.
        soup_score: that of the soup with it.
        taken: whether it stayed in.
        reason: in words.
    """

    name: str
    score: float
    soup_score: float
    taken: bool
    reason: str


@dataclass(frozen=True)
class GreedySoup:
    """A greedy soup.

    Attributes:
        state: the average of the weights that were taken.
        score: its i.i.d. score.
        log: one entry per candidate, in the order in which they were tried: falling i.i.d. score.
    """

    state: dict[str, Tensor]
    score: float
    log: tuple[Tasting, ...]

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of the candidates in the soup."""
        return tuple(entry.name for entry in self.log if entry.taken)


def greedy_soup(candidates: Sequence[Candidate], score: Callable[[Mapping[str, Tensor]], float]) -> GreedySoup:
    """The greedy soup of Wortsman et al. (2022a), recipe 1: each candidate is taken if the average does not get worse.

    Candidates are tried in the order of their own scores, the best first, and the given order where they are equal.
    Beside the average there are at most two states in memory: a candidate, and the average with it.

    Args:
        candidates: fine-tuned from the same pretrained weights.
        score: the i.i.d. score (accuracy, say; higher is better) of a state dict. Never the o.o.d. one.

    Raises:
        UserError: there are no candidates, or one cannot be read, is not finite, is of another network or origin, or
            has a score that is not a number.
    """
    if not candidates:
        raise UserError("there are no weights to make a soup of")
    if all(candidate.origin is not None for candidate in candidates):
        check_origins([str(candidate.origin) for candidate in candidates], len(candidates))
    own = [
        _number(score(_load(one)) if one.score is None else one.score, f"the score of {one.name}") for one in candidates
    ]
    order = sorted(range(len(candidates)), key=lambda index: -own[index])
    soup, best = WeightAverage(), -math.inf
    log: list[Tasting] = []
    for index in order:
        candidate = candidates[index]
        trial = WeightAverage(soup.mean, soup.count)
        try:
            trial.add(_load(candidate))
        except UserError as error:
            raise UserError(f"{candidate.name} cannot go into this soup: {error}") from error
        if not log:
            soup, best, reason = trial, own[index], "the best on its own"
            log.append(Tasting(candidate.name, own[index], own[index], True, reason))
            continue
        found = _number(score(trial.mean), f"the score of the soup with {candidate.name}")
        taken = found >= best
        change = "does not fall" if taken else "falls"
        log.append(Tasting(candidate.name, own[index], found, taken, f"the score {change}: {best:.6g} to {found:.6g}"))
        if taken:
            soup, best = trial, found
    return GreedySoup(soup.mean, best, tuple(log))


def _load(candidate: Candidate) -> Mapping[str, Tensor]:
    if callable(candidate.load):
        state = candidate.load()
    else:
        state, _ = read_tensors(Path(candidate.load), "model")
    try:
        check_finite(state)
    except UserError as error:
        raise UserError(f"{candidate.name}: {error}") from error
    return state


def _number(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise UserError(f"{what} is {value}")
    return float(value)
