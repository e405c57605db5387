"""Averages of weights: along one trajectory as it is trained, or of checkpoints on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["WeightAverage", "average_weights"]


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
            _check_same(self.mean, state)
        self.count += 1
        for name, tensor in state.items():
            if not tensor.is_floating_point() or self.count == 1:
                self.mean[name] = tensor.detach().clone()
            else:
                self.mean[name] += (tensor.to(self.mean[name].dtype) - self.mean[name]) / self.count


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The uniform average of several state dicts of one network (Wortsman et al., 2022a; Ramé et al., 2022b).

    Raises:
        UserError: there are none, or their tensors differ in name or shape.
    """
    if not states:
        raise UserError("there are no weights to average")
    average = WeightAverage()
    for state in states:
        average.add(state)
    return average.mean


def _check_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name in sorted(set(one) ^ set(other)):
        raise UserError(f"these weights are of different networks: only one has '{name}'")
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            raise UserError(f"these weights are of different networks: '{name}' is {shapes}")
