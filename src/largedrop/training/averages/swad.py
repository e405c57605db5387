"""SWAD (Cha et al., 2021): the average of all weights between two steps that the validation loss determines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...config import Config
from ...errors import UserError
from ..averaging import WeightAverage, check_finite, check_same
from .base import Average, part_of

__all__ = ["DenseAverage", "Swad", "SwadResult"]


@dataclass(frozen=True)
class SwadResult:
    """SWAD's average.

    Attributes:
        state: state dict of the average.
        start: t_s, step of the first averaged evaluation.
        end: t_e, step of the last averaged evaluation.
        count: number of averaged evaluations.
        converged: whether the validation loss determined the start; if not, it is the first evaluation.
        overfitted: whether the validation loss determined the end; if not, it is the last evaluation.
    """

    state: dict[str, Tensor]
    start: int
    end: int
    count: int
    converged: bool
    overfitted: bool


@dataclass(frozen=True)
class _Segment:
    step: int
    loss: float
    state: dict[str, Tensor]


class Swad:
    """Algorithm 1 of Cha et al. (2021), one evaluation at a time.

    The start t_s is the first evaluation whose loss is the smallest of the ``n_converge`` from it on; the level is
    ``tolerance_ratio`` times their mean. The end t_e is the last evaluation before ``n_tolerance`` in a row whose
    losses are all above the level. The average is over t_s to t_e, inclusive; where the loss determines no start or
    end, from the first or to the last evaluation.

    For a dense average, over every step and not only at evaluations, ``state`` is the mean of the weights after every
    step since the last evaluation (a new ``WeightAverage`` each time); evaluations must then be equally spaced.
    Otherwise ``state`` is the weights at the evaluation.

    The authors' public code (``LossValley``) differs in four things, in which this follows the paper. With
    ``n_tolerance`` > ``n_converge`` it counts the start more than once; it also averages evaluations before the start
    whose loss is below the level; where no end is found it drops last evaluations that are all above the level; and
    where no start is found it returns the last evaluation alone.

    Besides the average, at most ``n_converge`` state dicts are in memory before the start, ``n_tolerance`` after it.

    Args:
        n_converge: optimum patience N_s, in evaluations.
        n_tolerance: overfit patience N_e, in evaluations.
        tolerance_ratio: tolerance ratio r, 1 or more.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, n_converge: int = 3, n_tolerance: int = 6, tolerance_ratio: float = 1.3) -> None:
        if n_converge < 1 or n_tolerance < 1:
            raise UserError(f"SWAD's patience must be 1 evaluation or more, not {min(n_converge, n_tolerance)}")
        if not (math.isfinite(tolerance_ratio) and tolerance_ratio >= 1):
            raise UserError(f"SWAD's tolerance ratio must be 1 or more, not {tolerance_ratio}")
        self.n_converge, self.n_tolerance, self.tolerance_ratio = n_converge, n_tolerance, float(tolerance_ratio)
        self.level: float | None = None
        """A loss above this level shows overfitting; None before the start is found."""
        self.overfitted = False
        self._average = WeightAverage()
        self._pending: deque[_Segment] = deque()  # not yet known to be averaged
        self._start = self._end = -1  # steps of the average

    @property
    def converged(self) -> bool:
        """Whether the start has been found."""
        return self.level is not None

    @property
    def finished(self) -> bool:
        """Whether the end has been found, after which ``add`` has no effect."""
        return self.overfitted

    @torch.no_grad()
    def add(self, step: int, state: Mapping[str, Tensor], loss: float) -> None:
        """Add an evaluation; no effect once ``finished``.

        Args:
            state: state dict of the weights, or of their mean since the last evaluation; copied.
            loss: loss on held-out images; in a run the mean over the training domains.

        Raises:
            UserError: the loss or a weight is not finite, the weights are of another network, or ``step`` is not after
                the last.
        """
        if self.overfitted:
            return
        last = self._pending[-1].step if self._pending else self._end
        if step <= last:
            raise UserError(f"SWAD: the step must be after step {last}, not {step}")
        if not math.isfinite(loss):
            raise UserError(f"SWAD: the validation loss at step {step} is {loss}")
        check_finite(state)
        if self._pending:
            check_same(self._pending[-1].state, state)
        copy = {name: tensor.detach().clone() for name, tensor in state.items()}
        self._pending.append(_Segment(step, float(loss), copy))
        if self.level is None:
            self._look_for_start()
        else:
            self._look_for_end(self.level)

    def result(self) -> SwadResult:
        """The average over the evaluations so far; may be called at any time.

        Raises:
            UserError: there was no evaluation.
        """
        if not self._pending and not self._average.count:
            raise UserError("SWAD: there was no evaluation to average")
        average = WeightAverage(self._average.mean, self._average.count)
        for segment in self._pending:
            average.add(segment.state)
        start = self._start if self._average.count else self._pending[0].step
        end = self._pending[-1].step if self._pending else self._end
        return SwadResult(average.mean, start, end, average.count, self.converged, self.overfitted)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state for ``load``: JSON types, and tensors by name."""
        header = {
            "settings": [self.n_converge, self.n_tolerance, self.tolerance_ratio],
            "level": self.level,
            "overfitted": self.overfitted,
            "averaged": [self._start, self._end, self._average.count],
            "pending": [[segment.step, segment.loss] for segment in self._pending],
        }
        tensors = {f"average.{name}": tensor for name, tensor in self._average.mean.items()}
        for number, segment in enumerate(self._pending):
            tensors |= {f"pending.{number}.{name}": tensor for name, tensor in segment.state.items()}
        return header, tensors

    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state.

        Raises:
            UserError: the state has other settings.
            KeyError, TypeError, ValueError: the state is of another kind.
        """
        settings = [self.n_converge, self.n_tolerance, self.tolerance_ratio]
        if list(header["settings"]) != settings:
            raise UserError(f"SWAD was begun with {header['settings']}, and cannot be resumed with {settings}")
        level = header["level"]
        start, end, count = (int(value) for value in header["averaged"])
        pending = [
            _Segment(int(step), float(loss), part_of(tensors, f"pending.{number}."))
            for number, (step, loss) in enumerate(header["pending"])
        ]
        average = WeightAverage(part_of(tensors, "average."), count)
        if any(not segment.state for segment in pending) or bool(count) != bool(average.mean):
            raise ValueError("SWAD's tensors do not fit its header")
        self.level = None if level is None else float(level)
        self.overfitted = bool(header["overfitted"])
        self._average, self._pending = average, deque(pending)
        self._start, self._end = start, end

    def _look_for_start(self) -> None:
        if len(self._pending) > self.n_converge:
            self._take()  # averaged as long as no start is found
        losses = [segment.loss for segment in self._pending]
        if len(losses) == self.n_converge and losses[0] == min(losses):
            self.level = self.tolerance_ratio * sum(losses) / self.n_converge
            self._average = WeightAverage()
            self._start = self._end = -1
            while len(self._pending) > self.n_tolerance:
                self._take()

    def _look_for_end(self, level: float) -> None:
        if len(self._pending) > self.n_tolerance:
            self._take()
        if len(self._pending) == self.n_tolerance and all(segment.loss > level for segment in self._pending):
            self.overfitted = True
            self._pending.clear()

    def _take(self) -> None:
        """Move the oldest evaluation into the average."""
        segment = self._pending.popleft()
        if not self._average.count:
            self._start = segment.step
        self._average.add(segment.state)
        self._end = segment.step


class DenseAverage(Average):
    """SWAD in a run: each evaluation adds the mean of the weights after every step since the last evaluation."""

    method = "swad"
    checkpoint = "swad"

    def __init__(self) -> None:
        self._swad = Swad()
        self._since = WeightAverage()

    @classmethod
    def applies_to(cls, config: Config) -> bool:
        return config.swad

    def after_step(self, network: nn.Module) -> None:
        if not self._swad.finished:
            self._since.add(network.state_dict())

    def evaluated(self, step: int, network: nn.Module, loss: float) -> None:
        if not self._swad.finished:
            self._swad.add(step, self._since.mean, loss)
            self._since = WeightAverage()

    def result(self) -> dict[str, Tensor]:
        return self._swad.result().state

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        header, tensors = self._swad.state()
        since = {f"since.{name}": tensor for name, tensor in self._since.mean.items()}
        return {**header, "since": self._since.count}, {**tensors, **since}

    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._swad.load(header, tensors)
        self._since = WeightAverage(part_of(tensors, "since."), int(header["since"]))
