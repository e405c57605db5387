"""Mixout (Lee et al., 2020) at a high rate: at each step most filters have their pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import UserError
from .base import Forward, Objective, StepResult
from .erm import ERM

__all__ = ["Mixout"]

_LEVELS = 2**16
"""A draw has 16 bits, so rates are exact to 1/65536."""


class Mixout(Objective):
    """Cross-entropy under weights of which a random part is reset to the pretrained ones (Lee et al., 2020).

    With the share p and m ∈ {0, 1}, 1 with probability p, a step's forward and backward pass are at

        ŵ = (m w⁰ + (1 − m) w − p w⁰) / (1 − p) = w⁰ + (1 − m) (w − w⁰) / (1 − p),

    whose expectation is w, and the gradient by w is (1 − m) / (1 − p) ∂L/∂ŵ. Evaluations are at w.

    What is reset follows High-Rate Mixout (Aminbeidokhti et al., WACV 2026, arXiv 2510.06955) and its public code: in
    convolutions a whole filter, which is one output channel, in linear layers (transformers) each weight by itself. The
    head, which has no pretrained weights, biases and the scales and shifts of normalisations are not; nor is a head
    that was fitted before, since w⁰ would then differ from run to run. The paper's share is 0.8 for ResNets, the
    default, and 0.9 for vision transformers. That code leaves out the factor 1/(1 − p) of the gradient, which Adam
    hardly sees.

    The parameters are set to ŵ and restored to the bit, as in ``MLDG``. Masks come from torch's generator.

    Args:
        weight: the share p, in [0, 1); 0 is cross-entropy alone.
        anneal_steps: must be 0.
    """

    name = "mixout"
    default_weight = 0.8
    fewest_domains = 1

    def __init__(self, weight: float = default_weight, anneal_steps: int = 0) -> None:
        super().__init__(weight, anneal_steps)
        if weight >= 1:
            raise UserError(f"mixout's penalty is the share of the filters that are reset, in [0, 1), not {weight:g}")
        self._erm = ERM()
        self._mixed: list[tuple[Tensor, Tensor]] | None = None

    def weigh(self, class_weights: Tensor) -> None:
        """See ``Objective.weigh``."""
        self._erm.weigh(class_weights)

    def bind(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Set the network of ``forward``, and w⁰ by its weights."""
        head = {id(parameter) for parameter in network.get_submodule("head").parameters()}
        weights = (layer.weight for layer in network.modules() if isinstance(layer, (_ConvNd, nn.Linear)))
        self._mixed = [
            (weight, weight.detach().clone()) for weight in weights if weight.requires_grad and id(weight) not in head
        ]

    def backward(self, forward: Forward, images: Tensor, labels: Tensor, domains: int, step: int) -> StepResult:
        """See ``Objective.backward``; ``loss`` is at ŵ, ``penalty`` is 0.

        Raises:
            RuntimeError: ``bind`` was not called.
        """
        self._check_batch(images, labels, domains)
        if self._mixed is None:
            raise RuntimeError("Mixout resets weights: call bind() with the network at its pretrained weights first")
        reset = min(round(self.weight * _LEVELS), _LEVELS - 1)
        if not (reset and self._mixed):
            return self._erm.backward(forward, images, labels, domains, step)
        factors = _draw([weight for weight, _ in self._mixed], reset)
        before = [(weight.detach().clone(), weight.grad) for weight, _ in self._mixed]
        try:
            with torch.no_grad():
                for (weight, start), factor in zip(self._mixed, factors, strict=True):
                    weight.sub_(start).mul_(factor).add_(start)
                    weight.grad = None
            torch.clear_autocast_cache()  # it may contain w in half precision
            result = self._erm.backward(forward, images, labels, domains, step)
        finally:
            with torch.no_grad():
                for (weight, _), (value, _) in zip(self._mixed, before, strict=True):
                    weight.copy_(value)
            torch.clear_autocast_cache()
        for (weight, _), factor, (_, earlier) in zip(self._mixed, factors, before, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(factor)
            if earlier is not None:
                weight.grad = earlier if weight.grad is None else weight.grad.add_(earlier)
        return result


def _draw(weights: list[Tensor], reset: int) -> list[Tensor]:
    """(1 − m) / (1 − p) for each weight, with p = ``reset``/65536; for a convolution (filters, 1, 1, …)."""
    shapes = [torch.Size([len(one), *[1] * (one.dim() - 1)]) if one.dim() > 2 else one.shape for one in weights]
    counts = [shape.numel() for shape in shapes]
    # One number of 64 bits makes four masks.
    drawn = torch.empty(-(-sum(counts) // 4), dtype=torch.int64, device=weights[0].device).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[: sum(counts)] >= reset - _LEVELS // 2
    factors = kept.to(weights[0].dtype) * (_LEVELS / (_LEVELS - reset))
    return [part.view(shape) for part, shape in zip(torch.split(factors, counts), shapes, strict=True)]
