"""Linearity of a fine-tuning: the fine-tuned network against its first-order approximation at the start."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.dataset import IntArray
from ..errors import UserError
from ..training.averaging import check_finite, check_same
from ..training.evaluation import accuracy

__all__ = ["Linearised", "Linearity", "linearise", "measure_linearity"]


MOVED = 1e-5
"""Least move of an output that counts, as a share of it at the start: a hundred times float32's rounding of a sum."""


class Linearised(NamedTuple):
    """Outputs of three networks on the same images, (n, …) each.

    Attributes:
        start: output at the start, f(x; w0).
        linear: linearised output, f(x; w0) + J(x; w0)(w − w0).
        tuned: fine-tuned output, f(x; w).
    """

    start: Tensor
    linear: Tensor
    tuned: Tensor


@dataclass(frozen=True)
class Linearity:
    """Distance and accuracies of fine-tuned and linearised outputs.

    Attributes:
        images: number of images.
        distance: ``relative_distance`` of the logits: 0 where linear, 1 where as wrong as the outputs at the start.
        accuracy: accuracy of the fine-tuned network, fraction.
        linear_accuracy: accuracy of the linearised network, fraction.
        start_accuracy: accuracy before the first step, fraction.
        agreement: fraction of the images that the fine-tuned and the linearised network classify alike.
    """

    images: int
    distance: float
    accuracy: float
    linear_accuracy: float
    start_accuracy: float
    agreement: float


def linearise(
    network: nn.Module, start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], images: Tensor
) -> Linearised:
    """Outputs before and after fine-tuning, and those of the first-order Taylor expansion at the start (section 3.2).

    One forward-mode derivative, without the Jacobian, at the cost of about three forward passes. In the precision of
    ``start``, which should be float32 or better.

    Args:
        network: network in evaluation mode; its own weights are neither used nor changed.
        start: state dict w0.
        tuned: state dict w of the same network.
        images: inputs of the network, (n, …).

    Raises:
        UserError: the state dicts are of different networks or not finite, or their buffers differ (running statistics
            that have moved are not weights).
    """
    check_same(start, tuned)
    for state in (start, tuned):
        check_finite(state)
    trained = {name for name, _ in network.named_parameters()}
    fixed = {name: tensor for name, tensor in start.items() if name not in trained}
    for name, tensor in fixed.items():
        if tensor.is_floating_point() and not torch.equal(tensor, tuned[name].to(tensor)):
            raise UserError(f"cannot linearise a fine-tuning that moved '{name}': running statistics are not weights")
    weights = {name: start[name].detach() for name in trained}
    change = {name: tuned[name].detach().to(weights[name]) - weights[name] for name in trained}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(network, {**fixed, **values}, (images,))
        return found

    # The fused attention kernels have no forward-mode derivative.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch's forward mode uses a function that torch has deprecated, at its first call.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is (deprecated|not supported)", DeprecationWarning)
        at_start, slope, *_ = jvp(outputs, (weights,), (change,))
        at_end = outputs({name: weights[name] + change[name] for name in trained})
    return Linearised(at_start, at_start + slope, at_end)


def relative_distance(found: Linearised) -> float:
    """‖f − f_lin‖ / ‖f − f(·; w0)‖ of each image, averaged over the images whose output has moved; 0 without any.

    What rounding may have done (``MOVED``) is no move, as where the fine-tuned checkpoint is that at the start.

    Near 0 the training was "lazy" (Chizat, Oyallon & Bach, 2019); the paper's figure 1 asks the same of interpolated
    weights.
    """
    tuned = found.tuned.flatten(1).double()
    moved = (tuned - found.start.flatten(1).double()).norm(dim=1)
    wrong = (tuned - found.linear.flatten(1).double()).norm(dim=1)
    did = moved > MOVED * found.start.flatten(1).double().norm(dim=1)
    return float((wrong[did] / moved[did]).mean()) if bool(did.any()) else 0.0


def measure_linearity(found: Linearised, labels: IntArray) -> Linearity:
    """Distance and accuracies of logits (n, classes) with labels (n,)."""
    start, linear, tuned = (logits.cpu().numpy() for logits in found)
    return Linearity(
        images=len(labels),
        distance=relative_distance(found),
        accuracy=accuracy(tuned, labels),
        linear_accuracy=accuracy(linear, labels),
        start_accuracy=accuracy(start, labels),
        agreement=accuracy(tuned, linear.argmax(axis=1)),
    )
