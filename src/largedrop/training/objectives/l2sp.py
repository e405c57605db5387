"""L2-SP (Li et al., 2018): weights that are pulled to the pretrained ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Forward, Objective, StepResult
from .erm import ERM

__all__ = ["L2SP"]


class L2SP(Objective):
    """Cross-entropy plus α/2 |w − w⁰|² over the backbone, where w⁰ are its pretrained weights (Li et al., equation 2).

    All trained parameters of the backbone count; the authors' script leaves biases and normalisations out. It has
    α = 0.1, the default, and β = 0.01 for a further term β/2 |w|² over the new head. Here that term is the config's
    weight decay (0.01 in the short recipe), which applies to the head, and to the backbone besides its pull to w⁰, as
    with every objective. With AdamW the decay is decoupled; the pull is a part of the gradient like any other.

    Args:
        weight: strength α of the pull.
        anneal_steps: must be 0.
    """

    name = "l2sp"
    default_weight = 0.1
    fewest_domains = 1

    def __init__(self, weight: float = default_weight, anneal_steps: int = 0) -> None:
        super().__init__(weight, anneal_steps)
        self._erm = ERM()
        self._pulled: list[tuple[nn.Parameter, Tensor]] | None = None

    def weigh(self, class_weights: Tensor) -> None:
        """See ``Objective.weigh``."""
        self._erm.weigh(class_weights)

    def bind(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Set the network of ``forward``, and w⁰ by its weights."""
        head = {id(parameter) for parameter in network.get_submodule("head").parameters()}
        self._pulled = [
            (parameter, parameter.detach().clone())
            for parameter in network.parameters()
            if parameter.requires_grad and id(parameter) not in head
        ]

    def backward(self, forward: Forward, images: Tensor, labels: Tensor, domains: int, step: int) -> StepResult:
        """See ``Objective.backward``; ``penalty`` is |w − w⁰|²/2, whose gradient is written out.

        Raises:
            RuntimeError: ``bind`` was not called.
        """
        if self._pulled is None:
            raise RuntimeError("L2-SP pulls to the pretrained weights: call bind() with the network there first")
        result = self._erm.backward(forward, images, labels, domains, step)
        if not self.weight:
            return result
        penalty = torch.zeros_like(result.loss)
        with torch.no_grad():
            for parameter, start in self._pulled:
                distance = parameter - start
                penalty += torch.linalg.vector_norm(distance).square() / 2
                if parameter.grad is None:
                    parameter.grad = distance.mul_(self.weight)
                else:
                    parameter.grad.add_(distance, alpha=self.weight)
        return StepResult(result.loss, result.representation, penalty)
