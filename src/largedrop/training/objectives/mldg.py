"""MLDG (Li et al., 2018): meta-learning for domain generalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Forward, Objective, StepResult, cross_entropy

__all__ = ["MLDG"]


class MLDG(Objective):
    """Meta-learning for domain generalisation, with first-order gradients as in DomainBed.

    The domains form a circle, in an order that is drawn from torch's generator at every step (DomainBed's
    ``random_pairs_of_minibatches`` until April 2022; since then it pairs meta-train with separate meta-test domains).
    Each domain i is the meta-train domain once, with its neighbour j as meta-test domain, and with parameters θ and n
    domains the step's gradient is

        1/n Σ [ ∇L_i(θ) + β ∇L_j(θ′) ],   θ′ = θ − α ∇L_i(θ).

    The second gradient is by θ′, and used as one by θ: the derivative of θ′ by θ, which contains second derivatives of
    L_i, is approximated by 1 (Li et al., algorithm 1, with the approximation of first-order MAML).
    The inner step is a plain gradient step, as in Li et al., without momentum or weight decay; DomainBed's is one of
    Adam. With β = 0 the gradient is that of ERM, from n forward passes instead of one; otherwise there are 2n.

    The parameters are set to θ′ and restored to the bit, so any form of forward pass works (folded convolutions,
    autocast). Batch norm that is not frozen has each domain's statistics, and its running statistics include the passes
    at θ′.

    Args:
        weight: weight β.
        anneal_steps: must be 0.
        inner_lr: step size α; by default every parameter's own learning rate in the optimiser at that step.
    """

    name = "mldg"
    default_weight = 1.0
    recordable = False
    by_domain = True

    def __init__(self, weight: float = default_weight, anneal_steps: int = 0, inner_lr: float | None = None) -> None:
        super().__init__(weight, anneal_steps)
        self.inner_lr = inner_lr
        self._network: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def bind(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Set the network of ``forward``, and the optimiser whose learning rates are α."""
        self._network, self._optimizer = network, optimizer

    def backward(self, forward: Forward, images: Tensor, labels: Tensor, domains: int, step: int) -> StepResult:
        """See ``Objective.backward``; ``loss`` is the mean of L_i(θ), ``penalty`` the mean of L_j(θ′).

        Raises:
            RuntimeError: ``bind`` was not called.
        """
        self._check_batch(images, labels, domains)
        parameters = self._parameters()
        batches = list(zip(images.chunk(domains), labels.chunk(domains), strict=True))
        order = torch.randperm(domains).tolist()
        representations: dict[int, Tensor] = {}
        loss = penalty = torch.zeros((), device=images.device)
        for index, one in enumerate(order):
            batch, targets = batches[one]
            representation, outputs = forward(batch)
            inner = cross_entropy(outputs, targets, self.class_weights)
            gradients = torch.autograd.grad(inner, list(parameters), allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                _add_gradient(parameter, gradient, 1 / domains)
            representations[one] = representation.detach()
            loss = loss + inner.detach() / domains
            if self.weight:
                other = batches[order[(index + 1) % domains]]
                penalty = penalty + self._after_step(forward, parameters, gradients, other, domains) / domains
        return StepResult(loss, torch.cat([representations[one] for one in range(domains)]), penalty)

    def _after_step(
        self,
        forward: Forward,
        parameters: dict[nn.Parameter, float | Tensor],
        gradients: tuple[Tensor | None, ...],
        batch: tuple[Tensor, Tensor],
        domains: int,
    ) -> Tensor:
        """L_j(θ′), (); its gradient is added to that of θ."""
        before = [parameter.detach().clone() for parameter in parameters]
        try:
            with torch.no_grad():
                for (parameter, lr), gradient in zip(parameters.items(), gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(lr * gradient)
            torch.clear_autocast_cache()  # it may contain θ in half precision
            _, outputs = forward(batch[0])
            outer = cross_entropy(outputs, batch[1], self.class_weights)
            (outer * (self.weight / domains)).backward()  # type: ignore[no-untyped-call]
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)
            torch.clear_autocast_cache()
        return outer.detach()

    def _parameters(self) -> dict[nn.Parameter, float | Tensor]:
        """The trained parameters, each with its α."""
        if self._network is None or self._optimizer is None:
            raise RuntimeError("MLDG changes weights: call bind() with the network and its optimiser first")
        rates = {id(one): group["lr"] for group in self._optimizer.param_groups for one in group["params"]}
        return {
            parameter: rates[id(parameter)] if self.inner_lr is None else self.inner_lr
            for parameter in self._network.parameters()
            if parameter.requires_grad and id(parameter) in rates
        }


def _add_gradient(parameter: nn.Parameter, gradient: Tensor | None, factor: float) -> None:
    if gradient is None:
        return
    if parameter.grad is None:
        parameter.grad = gradient * factor
    else:
        parameter.grad.add_(gradient, alpha=factor)
