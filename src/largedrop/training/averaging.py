"""Averages of weights: along one trajectory as it is trained, or of checkpoints on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Candidate", "GreedySoup", "Tasting", "WeightAverage", "average_weights", "greedy_soup", "interpolate"]


class WeightAverage:
    """The running mean of the state dicts it was given, kept in float32.

    Whole-number buffers (batch norm's counters) are taken from the last one.
    """

    def __init__(self, mean: Mapping[str, Tensor] | None = None, count: int = 0) -> None:
        self.mean = {name: tensor.clone() for name, tensor in (mean or {}).items()}
        self.count = count

    @torch.no_grad()
    def add(self, state: Mapping[str, Tensor]) -> None:
        """Take one more checkpoint in.

        Raises:
            UserError: its tensors have other names or shapes than those before.
        """
        if self.count:
            check_same(self.mean, state)
        self.count += 1
        for name, tensor in state.items():
            if not tensor.is_floating_point() or self.count == 1:
                self.mean[name] = tensor.detach().clone()
            else:
                self.mean[name] += (tensor.to(self.mean[name].dtype) - self.mean[name]) / self.count


@torch.no_grad()
def average_weights(
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    origins: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The average of several state dicts of one network (Wortsman et al., 2022a; Ramé et al., 2022b).

    Computed in float32 or better, and returned in the types of the first one; whole-number buffers (batch norm's
    counters) are those of the last.

    Args:
        states: of the same names and shapes.
        weights: of the states, 0 or more; divided by their sum. Equal by default.
        origins: what each was fine-tuned from (a digest of the pretrained weights), where that is known.

    Raises:
        UserError: there are none, their tensors differ in name or shape or are not finite, they come from different
            pretrained weights, or the weights are not as many numbers of 0 or more.
    """
    if not states:
        raise UserError("there are no weights to average")
    check_origins(origins, len(states))
    shares = _shares(weights, len(states))
    mean: dict[str, Tensor] = {}
    total = 0.0
    for state, share in zip(states, shares, strict=True):
        if mean:
            check_same(mean, state)
        check_finite(state)
        total += share
        for name, tensor in state.items():
            if name not in mean or not tensor.is_floating_point():
                mean[name] = _precise(tensor.detach()).clone()
            elif share:
                mean[name] += (tensor.to(mean[name].dtype) - mean[name]) * share / total
    return {name: tensor.to(states[0][name].dtype) for name, tensor in mean.items()}


@torch.no_grad()
def interpolate(
    pretrained: Mapping[str, Tensor],
    fine_tuned: Mapping[str, Tensor],
    alpha: float,
    origins: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """α · pretrained + (1 − α) · fine-tuned weights (the paper's figure 1; Wortsman et al., 2022b).

    At α = 1 and 0 it is a copy of the one or the other, bit for bit; between them whole-number buffers are those of the
    fine-tuned weights.

    Args:
        pretrained: state dict of the network before fine-tuning.
        fine_tuned: after it.
        alpha: in [0, 1].
        origins: what the two were trained from, where that is known.

    Raises:
        UserError: α is not in [0, 1], or the tensors differ in name or shape, are not finite or of different origins.
    """
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"alpha must be in [0, 1], not {alpha}: 1 gives the pretrained weights, 0 the fine-tuned ones")
    check_origins(origins, 2)
    check_same(pretrained, fine_tuned)
    for state in (pretrained, fine_tuned):
        check_finite(state)
    if alpha == 1:
        return {name: tensor.detach().clone() for name, tensor in pretrained.items()}
    mixed = {name: tensor.detach().clone() for name, tensor in fine_tuned.items()}
    if alpha > 0:
        for name, tensor in mixed.items():
            if tensor.is_floating_point():
                mix = alpha * _precise(pretrained[name].detach()) + (1 - alpha) * _precise(tensor)
                mixed[name] = mix.to(tensor.dtype)
    return mixed


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


def check_origins(origins: Sequence[str] | None, count: int) -> None:
    """See that all weights were fine-tuned from the same ones; nothing is known where ``origins`` is None.

    Raises:
        UserError: they were not, or there are not ``count`` of them.
    """
    if origins is None:
        return
    if len(origins) != count:
        raise UserError(f"there are {count} sets of weights, but {len(origins)} origins")
    for origin in origins:
        if origin != origins[0]:
            raise UserError(
                f"these weights were fine-tuned from different ones ({origins[0]} and {origin}): "
                "their average would be of no use"
            )


def check_finite(state: Mapping[str, Tensor]) -> None:
    """See that there is no infinity and no NaN in a state dict.

    Raises:
        UserError: there is.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"these weights are of no use: '{name}' has values that are not finite")


def check_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """See that two state dicts have the same names and shapes.

    Raises:
        UserError: they have not.
    """
    for name in sorted(set(one) ^ set(other)):
        raise UserError(f"these weights are of different networks: only one has '{name}'")
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            raise UserError(f"these weights are of different networks: '{name}' is {shapes}")


def _precise(tensor: Tensor) -> Tensor:
    """Half-precision tensors in float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise UserError(f"there are {count} sets of weights to average, but {len(weights)} numbers to weight them with")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"an average is weighted with numbers of 0 or more, not {weight}")
    if not any(weights):
        raise UserError("an average needs a weight above 0")
    return [float(weight) for weight in weights]


def _load(candidate: Candidate) -> Mapping[str, Tensor]:
    if callable(candidate.load):
        state = candidate.load()
    else:
        from ..runs.checkpoint import read_tensors

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
