"""Averages of state dicts, and checks that weights can be averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..errors import UserError, check_type

__all__ = [
    "WeightAverage",
    "average_weights",
    "check_finite",
    "check_origins",
    "check_same",
    "interpolate",
    "is_averaged",
    "precise",
]

_NUMBER: Any = Real
"""Numbers of Python's and numpy's; mypy does not know that a float is a ``Real``."""


class WeightAverage:
    """The running mean of state dicts, in float32 or better; integer buffers (batch norm's counters) are those of the
    last.
    """

    def __init__(self, mean: Mapping[str, Tensor] | None = None, count: int = 0) -> None:
        self.mean = {name: tensor.clone() for name, tensor in (mean or {}).items()}
        self.count = count

    @torch.no_grad()
    def add(self, state: Mapping[str, Tensor]) -> None:
        """Add a state dict.

        Raises:
            UserError: names, shapes or types of its tensors differ from those before.
        """
        state = {name: precise(tensor.detach()) for name, tensor in state.items()}
        if not self.count:
            self.mean, self.count = {name: tensor.clone() for name, tensor in state.items()}, 1
            return
        check_same(self.mean, state)
        self.count += 1
        floats = [name for name, tensor in state.items() if is_averaged(tensor)]
        others = [name for name, tensor in state.items() if not is_averaged(tensor)]
        # All tensors at once: on a GPU each alone would cost several launches at every step of a dense average.
        means = [self.mean[name] for name in floats]
        change = torch._foreach_sub([state[name] for name in floats], means)
        torch._foreach_div_(change, self.count)
        torch._foreach_add_(means, change)
        if others:
            torch._foreach_copy_([self.mean[name] for name in others], [state[name] for name in others])


@torch.no_grad()
def average_weights(
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    origins: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The average of several state dicts of one network (Wortsman et al., 2022a; Ramé et al., 2022b).

    Computed in float32 or better, and returned in the types of the state dicts; integer buffers (batch norm's counters)
    are those of the last. Batch norm's statistics that were learned in training are averaged as well, but are not those
    of the averaged weights: ``update_batchnorm`` estimates them anew.

    Args:
        states: state dicts with the same names, shapes and types.
        weights: weight of each state dict, 0 or more, divided by their sum; equal by default.
        origins: digest of the pretrained weights of each state dict, where known.

    Raises:
        UserError: there are no state dicts, tensors differ in name, shape, type or device or are not finite, origins
            differ, or ``weights`` has another length or a value that is not a number of 0 or more.
    """
    check_type(states, Iterable, "weights to average must be several state dicts")
    states = list(states)
    if not states:
        raise UserError("there are no weights to average")
    check_origins(origins, len(states))
    shares = _shares(weights, len(states))
    mean: dict[str, Tensor] = {}
    total = 0.0
    for state, share in zip(states, shares, strict=True):
        check_finite(state)
        check_same(states[0], state)
        total += share
        for name, tensor in state.items():
            if name not in mean or not is_averaged(tensor):
                mean[name] = precise(tensor.detach()).clone()
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

    At α = 1 and 0 the result is a copy, bit for bit; between them integer buffers are those of the fine-tuned weights.

    Args:
        pretrained: state dict of the network before fine-tuning.
        fine_tuned: state dict of the network after fine-tuning.
        alpha: α in [0, 1].
        origins: digest of the pretrained weights of each of the two, where known.

    Raises:
        UserError: α is not in [0, 1], or the tensors differ in name, shape, type or device, are not finite or of
            different origins.
    """
    if not (isinstance(alpha, _NUMBER) and 0.0 <= alpha <= 1.0):
        raise UserError(f"alpha must be in [0, 1], not {alpha}: 1 gives the pretrained weights, 0 the fine-tuned ones")
    check_origins(origins, 2)
    for state in (pretrained, fine_tuned):
        check_finite(state)
    check_same(pretrained, fine_tuned)
    if alpha == 1:
        return {name: tensor.detach().clone() for name, tensor in pretrained.items()}
    mixed = {name: tensor.detach().clone() for name, tensor in fine_tuned.items()}
    if alpha > 0:
        for name, tensor in mixed.items():
            if is_averaged(tensor):
                mix = alpha * precise(pretrained[name].detach()) + (1 - alpha) * precise(tensor)
                mixed[name] = mix.to(tensor.dtype)
    return mixed


def check_origins(origins: Sequence[str] | None, count: int) -> None:
    """Check that ``count`` sets of weights were fine-tuned from the same ones; None for unknown origins.

    Raises:
        UserError: the origins differ, or their number is not ``count``.
    """
    if origins is None:
        return
    if len(origins) != count:
        raise UserError(f"there are {count} sets of weights, but {len(origins)} origins")
    for origin in origins:
        if origin != origins[0]:
            raise UserError(
                f"these weights were fine-tuned from different ones ({origins[0]} and {origin}), "
                "so they cannot be averaged"
            )


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Check that a state dict is one of tensors, and contains no NaN or infinity.

    Raises:
        UserError: it is none, or a tensor contains one.
    """
    if not isinstance(state, Mapping):
        raise UserError(
            f"weights are given as a state dict, such as module.state_dict(), not as {type(state).__name__}"
        )
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"'{name}' is a {type(tensor).__name__}, not a tensor, so it cannot be averaged")
        if is_lazy(tensor):
            raise UserError(f"'{name}' has no shape yet, so it cannot be averaged: run the module once first")
        if is_averaged(tensor) and not bool(tensor.isfinite().all()):
            raise UserError(f"tensor '{name}' contains NaN or infinity")


def check_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Check that two state dicts have the same names, shapes, types and devices.

    Raises:
        UserError: one of these differs.
    """
    for name in sorted(set(one) ^ set(other)):
        raise UserError(f"these weights are of different networks: only one has '{name}'")
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[name].shape)}"
            raise UserError(f"these weights are of different networks: '{name}' is {shapes}")
        for what, mine, theirs in (
            ("type", tensor.dtype, other[name].dtype),
            ("device", tensor.device, other[name].device),
        ):
            if mine != theirs:
                both = f"{mine} and {theirs}".replace("torch.", "")
                raise UserError(f"these weights differ in their {what}: '{name}' is {both}; bring them to one first")


def is_averaged(tensor: Tensor) -> bool:
    """Whether an average is taken of a tensor: of all but integers, such as batch norm's counters."""
    return tensor.is_floating_point() or tensor.is_complex()


def precise(tensor: Tensor) -> Tensor:
    """A half-precision tensor in float32; any other tensor itself."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise UserError(f"there are {count} sets of weights, but {len(weights)} numbers to weight them")
    for weight in weights:
        if not (isinstance(weight, _NUMBER) and math.isfinite(weight) and weight >= 0):
            raise UserError(f"the weights of an average must be numbers of 0 or more, not {weight}")
    if not any(weights):
        raise UserError("at least one weight of an average must be above 0")
    return [float(weight) for weight in weights]
