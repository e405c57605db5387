"""SWAD (Cha et al., 2021): the average of all weights between two steps that the validation loss marks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import Config
from ...errors import UserError
from ...models.network import Network
from ..averaging import WeightAverage, check_finite, check_same
from .base import Average, part_of

__all__ = ["DenseAverage", "Swad", "SwadResult"]


@dataclass(frozen=True)
class SwadResult:
    """What SWAD has averaged.

    Attributes:
        state: the average.
        start: t_s, the step of the first evaluation in it.
        end: t_e, the step of the last one in it.
        count: evaluations in it.
        converged: whether the validation loss marked the start; if not, all weights since the first are in.
        overfitted: whether it marked the end; if not, all weights up to the last are in.
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
    """Algorithm 1 of Cha et al. (2021), fed with one evaluation after the other.

    The start t_s is the first evaluation whose loss is the smallest of the ``n_converge`` from it on; the level is then
    ``tolerance_ratio`` times the mean of these. The end t_e is the last evaluation before ``n_tolerance`` in a row
    whose losses are all above the level. What is averaged is everything from t_s to t_e, both included; where the loss
    never marks a start or an end, from the first or to the last evaluation.

    To average densely, over every step and not only at evaluations, give the mean of the weights after every step since
    the last evaluation as ``state`` (a ``WeightAverage`` that is begun anew each time); evaluations are equally spaced
    then. Otherwise give the weights at the evaluation.

    The authors' public code (``LossValley``) does the same but for four things, in which this follows the paper. With
    ``n_tolerance`` > ``n_converge`` it counts the start more than once; it also takes evaluations from before the start
    whose loss is below the level; where no end is found it leaves out last evaluations that are all above the level;
    and where no start is found it gives the last evaluation alone.

    At most ``n_converge`` states are in memory beside the average before the start, and ``n_tolerance`` after it.

    Args:
        n_converge: N_s, the optimum patience, in evaluations.
        n_tolerance: N_e, the overfit patience, in evaluations.
        tolerance_ratio: r, 1 or more.

    Raises:
        UserError: one of them is out of range.
    """

    def __init__(self, n_converge: int = 3, n_tolerance: int = 6, tolerance_ratio: float = 1.3) -> None:
        if n_converge < 1 or n_tolerance < 1:
            raise UserError(f"SWAD's patience must be 1 evaluation or more, not {min(n_converge, n_tolerance)}")
        if not (math.isfinite(tolerance_ratio) and tolerance_ratio >= 1):
            raise UserError(f"SWAD's tolerance ratio must be 1 or more, not {tolerance_ratio}")
        self.n_converge, self.n_tolerance, self.tolerance_ratio = n_converge, n_tolerance, float(tolerance_ratio)
        self.level: float | None = None
        """Above it a loss is one of overfitting; None before the start is found."""
        self.overfitted = False
        self._average = WeightAverage()
        self._pending: deque[_Segment] = deque()  # seen, but not yet known to be in the average
        self._start = self._end = -1  # of the average

    @property
    def converged(self) -> bool:
        """Whether the start has been found."""
        return self.level is not None

    @property
    def finished(self) -> bool:
        """Whether the end has been found; what is added from then on changes nothing."""
        return self.overfitted

    @torch.no_grad()
    def add(self, step: int, state: Mapping[str, Tensor], loss: float) -> None:
        """Take one evaluation in; without effect once ``finished``.

        Args:
            step: of the evaluation.
            state: the weights, or the mean of those after every step since the last evaluation; copied.
            loss: on held-out images; in a run the mean over the training domains.

        Raises:
            UserError: the loss or a weight is not finite, the weights are of another network, or the step is not later
                than the last.
        """
        if self.overfitted:
            return
        last = self._pending[-1].step if self._pending else self._end
        if step <= last:
            raise UserError(f"SWAD was given step {step} after step {last}")
        if not math.isfinite(loss):
            raise UserError(f"SWAD was given a validation loss of {loss} at step {step}")
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
        """The average as it is if this was the last evaluation; may be asked for at any time.

        Raises:
            UserError: there was no evaluation.
        """
        if not self._pending and not self._average.count:
            raise UserError("SWAD has seen no evaluation: there is nothing to average")
        average = WeightAverage(self._average.mean, self._average.count)
        for segment in self._pending:
            average.add(segment.state)
        start = self._start if self._average.count else self._pending[0].step
        end = self._pending[-1].step if self._pending else self._end
        return SwadResult(average.mean, start, end, average.count, self.converged, self.overfitted)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What ``load`` needs to go on: JSON, and tensors by name."""
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
        """Go on where ``state`` was taken.

        Raises:
            UserError: it was taken with other settings.
            KeyError, TypeError, ValueError: it was taken of something else.
        """
        settings = [self.n_converge, self.n_tolerance, self.tolerance_ratio]
        if list(header["settings"]) != settings:
            raise UserError(f"SWAD was begun with the settings {header['settings']}, and cannot go on with {settings}")
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
            self._take()  # in the average for as long as no start is found
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
    """SWAD as a run keeps it: fed after every step, so that what an evaluation adds is the mean since the last one."""

    method = "swad"
    checkpoint = "swad"

    def __init__(self) -> None:
        self._swad = Swad()
        self._since = WeightAverage()

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return config.swad

    def after_step(self, network: Network) -> None:
        if not self._swad.finished:
            self._since.add(network.state_dict())

    def evaluated(self, step: int, network: Network, loss: float) -> None:
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
