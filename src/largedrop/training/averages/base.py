"""The interface of the training loop to averages of the weights along one trajectory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ...config import Config

__all__ = ["Average", "part_of"]


class Average(ABC):
    """An average of the weights along a trajectory, from the first step on."""

    method: ClassVar[str]
    """Name of the average's method in ``runs.methods``."""
    checkpoint: ClassVar[str]
    """Name of the average's checkpoint in the run's folder, without ``.safetensors``."""

    @classmethod
    def applies_to(cls, config: Config) -> bool:
        """Whether a run of ``config`` computes this average."""
        return True

    @classmethod
    def of(cls, config: Config) -> Average:
        """A new average for a run of ``config``."""
        return cls()

    def after_step(self, network: nn.Module) -> None:  # noqa: B027  (most averages are over evaluations alone)
        """Add the weights after a step; called before ``evaluated``."""

    @abstractmethod
    def evaluated(self, step: int, network: nn.Module, loss: float) -> None:
        """Add an evaluation.

        Args:
            step: number of steps taken, 1 or more.
            network: network with the weights after the step.
            loss: ``iid_loss`` of the network, its images weighed by ``class_weights.held_out_weights``.
        """

    @abstractmethod
    def result(self) -> dict[str, Tensor]:
        """The average as a state dict; called after the last evaluation."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state for ``load``: JSON types, and tensors by name."""

    @abstractmethod
    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state.

        Raises:
            UserError: the state has other settings.
            KeyError, TypeError, ValueError: the state is of another kind.
        """


def part_of(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``start``, by the rest of their names."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
