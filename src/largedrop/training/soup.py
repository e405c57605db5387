"""Greedy soups: averages of the weights of selected trajectories (Wortsman et al., 2022a)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..runs.checkpoint import read_tensors
from .averaging import WeightAverage, check_finite, check_origins, check_same

__all__ = ["Candidate", "GreedySoup", "Tasting", "greedy_soup"]


@dataclass(frozen=True)
class Candidate:
    """Weights that may be added to a greedy soup, in memory only while they are used.

    Attributes:
        name: name in the log.
        load: function that returns the state dict, or path of a largedrop checkpoint.
        score: i.i.d. score of the candidate alone; measured where None.
        origin: digest of the pretrained weights; None where unknown.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]] | str | Path
    score: float | None = None
    origin: str | None = None


@dataclass(frozen=True)
class Tasting:
    """The decision of a greedy soup on one candidate.

    Attributes:
        name: name of the candidate.
        score: i.i.d. score of the candidate alone.
        soup_score: i.i.d. score of the soup with the candidate.
        taken: whether the candidate was added.
        reason: the reason, as text.
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
        state: state dict of the average, in the types of the candidates.
        score: i.i.d. score of the average.
        log: one entry per candidate, by descending i.i.d. score.
    """

    state: dict[str, Tensor]
    score: float
    log: tuple[Tasting, ...]

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of the candidates in the soup."""
        return tuple(entry.name for entry in self.log if entry.taken)


def greedy_soup(candidates: Sequence[Candidate], score: Callable[[Mapping[str, Tensor]], float]) -> GreedySoup:
    """The greedy soup of Wortsman et al. (2022a), recipe 1: a candidate is added if the score does not fall.

    Candidates are tried by descending score; ties keep the given order. Besides the average, at most two state dicts
    are in memory: a candidate, and the average with it.

    Args:
        candidates: candidates that were fine-tuned from the same pretrained weights.
        score: function from a state dict to its i.i.d. score (such as accuracy; higher is better), never o.o.d. Where
            batch norm's statistics were learned in training, it has to call ``update_batchnorm`` before it scores.

    Raises:
        UserError: there are no candidates, or a candidate cannot be read, is not finite, is of another network, type or
            origin, or has a score that is not finite.
    """
    for one in candidates:
        if not isinstance(one, Candidate):
            raise UserError(f"a soup is made of Candidate(name, load), not of a {type(one).__name__}")
    if not candidates:
        raise UserError("there are no weights to make a soup of")
    if all(candidate.origin is not None for candidate in candidates):
        check_origins([str(candidate.origin) for candidate in candidates], len(candidates))
    own = [
        _number(score(_load(one)) if one.score is None else one.score, f"the score of {one.name}") for one in candidates
    ]
    order = sorted(range(len(candidates)), key=lambda index: -own[index])
    soup, best = WeightAverage(), -math.inf
    first: dict[str, Tensor] = {}
    log: list[Tasting] = []
    for index in order:
        candidate = candidates[index]
        trial = WeightAverage(soup.mean, soup.count)
        state = _load(candidate)
        # One value a tensor: names, shapes, types and devices are all that is asked of it.
        first = first or {name: tensor.new_empty(()).expand(tensor.shape) for name, tensor in state.items()}
        try:
            check_same(first, state)
            trial.add(state)
            del state
        except UserError as error:
            raise UserError(f"{candidate.name} cannot be added to this soup: {error}") from error
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
    return GreedySoup({name: tensor.to(first[name].dtype) for name, tensor in soup.mean.items()}, best, tuple(log))


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


def _number(value: float | Tensor, what: str) -> float:
    if not isinstance(value, (Real, Tensor)) or not math.isfinite(value):
        raise UserError(f"{what} must be finite, not {value}")
    return float(value)
