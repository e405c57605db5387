"""What an average of the weights along one trajectory is to the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ...config import Config
from ...models.network import Network

__all__ = ["Average", "part_of"]


class Average(ABC):
    """An average of the weights along a trajectory, over what comes after the first step."""

    method: ClassVar[str]
    """Name of its method, in ``runs.methods``."""
    checkpoint: ClassVar[str]
    """Name of its checkpoint's file in the run's folder, without ``.safetensors``."""

    @classmethod
    def wanted(cls, config: Config) -> bool:
        """Whether a run of ``config`` keeps it."""
        return True

    def after_step(self, network: Network) -> None:  # noqa: B027  (most averages are over evaluations alone)
        """Take the weights after a step in; called before ``evaluated`` where there is an evaluation after the step."""

    @abstractmethod
    def evaluated(self, step: int, network: Network, loss: float) -> None:
        """Take an evaluation in.

        Args:
            step: number of steps taken, 1 or more.
            network: with the weights after them.
            loss: ``iid_loss`` of these.
        """

    @abstractmethod
    def result(self) -> dict[str, Tensor]:
        """The average, a state dict of the network; asked for after the last evaluation."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What ``load`` needs to go on: JSON, and tensors by name."""

    @abstractmethod
    def load(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            UserError: it was taken with other settings.
            KeyError, TypeError, ValueError: it was taken of something else.
        """


def part_of(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``start``, by what follows."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
