"""An average of any module's weights along its training, in any loop, moved a share of the way back to its start."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, one_of, plain
from ..models.batchnorm import estimate_statistics, learned_layers, statistics_of
from .averages.base import Average, part_of
from .averages.ema import ExponentialAverage
from .averages.swad import DenseAverage
from .averages.uniform import UniformAverage
from .averaging import check_finite, check_same, interpolate

__all__ = ["KINDS", "OVER_EVALUATIONS", "TrajectoryAverage"]

KINDS = ("exponential", "uniform", "swad", "last")

OVER_EVALUATIONS = ("uniform", "swad")
"""The kinds that need evaluations."""


class TrajectoryAverage:
    """An average of a module's weights along its training, which takes their place at the end.

    ::

        average = ld.TrajectoryAverage(network, "exponential", way_back=0.2)  # before the first step
        for images, labels in loader:
            ...
            optimizer.step()
            average.after_step()
        average.hand_over(inputs=loader)

    It is for any module and any loop; ``LightningCallback`` and ``TransformersCallback`` are for these trainers.

    Args:
        module: any network, with the weights that training starts from.
        kind: ``exponential``: the mean over all steps, weighted by decay^(steps ago), without bias; ``uniform``: the
            mean over the evaluations; ``swad``: the mean over the steps between the two evaluations that the held-out
            loss determines (Cha et al., 2021); ``last``: no average, the weights of the end.
        decay: that of ``exponential``, in (0, 1); the average is over about the last 1 / (1 − decay) steps.
        way_back: share α in [0, 1] of the way from the average back to the start (Wortsman et al., 2022b); the start is
            kept for it. It should have a head that is fitted already: a random head is worth nothing to go back to.

    Raises:
        UserError: an argument is out of range, or the state dict holds what is no tensor.
    """

    def __init__(
        self, module: nn.Module, kind: str = "exponential", *, decay: float = 0.99, way_back: float = 0.0
    ) -> None:
        check_settings(kind, decay, way_back)
        if not isinstance(module, nn.Module):
            raise UserError(f"the weights of a torch.nn.Module are averaged, not those of a {type(module).__name__}")
        self.module, self.kind, self.decay, self.way_back = module, kind, float(decay), float(way_back)
        self.steps = 0
        """Steps so far."""
        self.handed_over = False
        """Whether the module has the average's weights."""
        self._evaluated_at = 0
        state = module.state_dict()
        check_finite(state)
        self._start = _copy(state) if way_back else statistics_of(module)
        self._average: Average | None = None
        if kind == "exponential":
            self._average = ExponentialAverage(self.decay, stays=False)
        elif kind != "last":
            self._average = UniformAverage() if kind == "uniform" else DenseAverage()

    def after_step(self) -> None:
        """Add the weights after a step of the optimiser; call it after each."""
        self._check_open()
        self.steps += 1
        if self._average is not None:
            self._average.after_step(self.module)

    def evaluated(self, loss: float | Tensor | None = None) -> None:
        """Add an evaluation, for ``uniform`` and ``swad``; no effect before the first step, or twice after one.

        Args:
            loss: mean loss on held-out images, which ``swad`` needs; never on the test domain.

        Raises:
            UserError: the kind is ``swad``, and the loss is not given or not finite.
        """
        self._check_open()
        if self._average is None or self.steps == self._evaluated_at:
            return
        if self.kind == "swad" and (loss is None or not math.isfinite(float(loss))):
            raise UserError(f"swad needs a finite loss on held-out images at each evaluation, not {loss}")
        self._average.evaluated(self.steps, self.module, float(loss or 0.0))
        self._evaluated_at = self.steps

    def result(self) -> dict[str, Tensor]:
        """The average so far, moved back, as a state dict in the module's types; may be called at any time.

        Raises:
            UserError: there was no step, or for ``uniform`` and ``swad`` no evaluation; or weights are not finite.
        """
        if not self.steps:
            raise UserError("there was no step to average the weights of")
        if self.kind in OVER_EVALUATIONS and not self._evaluated_at:
            raise UserError(f"'{self.kind}' is over evaluations, and there was none")
        now = self.module.state_dict()
        if isinstance(self._average, ExponentialAverage):
            self._average.evaluated(self.steps, self.module, 0.0)  # integer buffers are those of now
        state = _copy(now) if self._average is None else self._average.result()
        state = {name: tensor.to(now[name], copy=True) for name, tensor in state.items()}
        check_finite(state)
        if not self.way_back:
            return state
        return interpolate({name: tensor.to(now[name]) for name, tensor in self._start.items()}, state, self.way_back)

    def hand_over(self, inputs: Iterable[Any] | None = None) -> nn.Module:
        """Give the module the weights of ``result``; afterwards there are no more steps.

        Args:
            inputs: batches for ``update_batchnorm``, where the batch norms of the module learned statistics.

        Returns:
            The module.

        Raises:
            UserError: as ``result`` and ``update_batchnorm``.

        Warns:
            UserWarning: batch norms learned statistics in training, and there are no inputs to estimate them anew.
        """
        self._check_open()
        state = self.result()
        averaged = self.kind != "last" or self.way_back > 0
        learned = learned_layers(self.module, self._start) if averaged else ()
        self.module.load_state_dict(state)
        if learned and inputs is None:
            warnings.warn(
                f"{len(learned)} batch norms learned their statistics in training, and those of averaged weights are "
                "others: pass inputs=(batches of training images) to have them estimated anew",
                stacklevel=2,
            )
        elif learned and inputs is not None:
            estimate_statistics(self.module, inputs, learned)
        self.handed_over = True
        return self.module

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state for ``load``: JSON types, and tensors by name."""
        header, tensors = self._average.state() if self._average is not None else ({}, {})
        about = {
            "settings": [self.kind, self.decay, self.way_back],
            "steps": self.steps,
            "evaluated_at": self._evaluated_at,
            "handed_over": self.handed_over,
            "average": header,
        }
        held = {f"average.{name}": tensor for name, tensor in tensors.items()}
        return about, {**held, **{f"start.{name}": tensor for name, tensor in self._start.items()}}

    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state, with which training goes on.

        Raises:
            UserError: the state has other settings, is of another network or kind, or of after the end.
        """
        settings = [self.kind, self.decay, self.way_back]
        device = next((tensor.device for tensor in self.module.state_dict().values()), torch.device("cpu"))
        try:
            if list(header["settings"]) != settings:
                raise UserError(f"the average was begun with {header['settings']}, and cannot go on with {settings}")
            if header["handed_over"]:
                raise UserError(
                    "this checkpoint is of after the end of training, with the average as its weights: it cannot go on"
                )
            start = {name: tensor.to(device, copy=True) for name, tensor in part_of(tensors, "start.").items()}
            check_same(self._start, start)
            held = {name: tensor.to(device, copy=True) for name, tensor in part_of(tensors, "average.").items()}
            if self._average is not None:
                self._average.load(header["average"], held)
            self.steps, self._evaluated_at = int(header["steps"]), int(header["evaluated_at"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no state of an average along a trajectory ({error!r})") from error
        self._start = start

    def _check_open(self) -> None:
        if self.handed_over:
            raise UserError("the average has been handed over: begin a new one for further training")


def check_settings(kind: str, decay: float, way_back: float) -> None:
    """Check the settings of a ``TrajectoryAverage``.

    Raises:
        UserError: one of them is out of range.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of average {kind!r}; {one_of(str(kind), KINDS)}")
    for name, value, fits in (("decay", decay, "(0, 1)"), ("way_back", way_back, "[0, 1]")):
        value = plain(value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (0 < value < 1 if name == "decay" else 0 <= value <= 1):
            raise UserError(f"{name} must be a number in {fits}, not {value!r}")


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
