"""The interface of objectives, which compute gradients from one step's batch, and their common base classes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError

__all__ = [
    "AnnealedObjective",
    "Forward",
    "Objective",
    "PenaltyObjective",
    "StepResult",
    "cross_entropy",
    "full_precision",
]

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (n, …) to the representation before dropout (n, units) and logits, under the loop's autocast.

With K dropout masks for each image the logits are (K · n, classes), all images under the first mask first; otherwise
(n, classes).
"""


@dataclass(frozen=True)
class StepResult:
    """Detached results of a step.

    Attributes:
        loss: mean cross-entropy of the batch over images and masks in nats, with the classes' weights, ();
            ``CollapseWatch`` compares it with log(classes).
        representation: representation before dropout, (batch, units), in the order of the images.
        penalty: the objective's second term, without its weight, (); 0 where there is none.
    """

    loss: Tensor
    representation: Tensor
    penalty: Tensor


class Objective(ABC):
    """An objective of training: minimise ``loss + weight_at(step) · penalty``.

    Args:
        weight: weight of the penalty, 0 or more; 0 for the cross-entropy alone.
        anneal_steps: number of steps before the weight takes effect, for objectives that are annealed.

    Raises:
        UserError: an argument is negative or not finite, or the objective does not have it.
    """

    name: ClassVar[str]
    """Name in a config."""
    default_weight: ClassVar[float]
    """DomainBed's weight of the penalty, or the authors'."""
    default_anneal_steps: ClassVar[int] = 0
    """DomainBed's number of annealing steps; 0 where the weight never changes."""
    recordable: ClassVar[bool] = True
    """Whether all steps are the same, so that one can be recorded and replayed (``training.graph``)."""
    by_domain: ClassVar[bool] = False
    """Whether each domain's images go through the network by themselves, so that a batch norm sees no others."""
    fewest_domains: ClassVar[int] = 2
    fewest_images: ClassVar[int] = 1
    """Smallest number of images per domain and step."""

    def __init__(self, weight: float, anneal_steps: int = 0) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"the weight of {self.name} must be a number of 0 or more, not {weight}")
        if anneal_steps < 0:
            raise UserError(f"the steps before {self.name}'s weight takes effect must be 0 or more, not {anneal_steps}")
        if anneal_steps and not self.default_anneal_steps:
            raise UserError(f"{self.name} is not annealed: its annealing steps must be 0, not {anneal_steps}")
        self.weight = float(weight)
        self.anneal_steps = anneal_steps
        self.class_weights: Tensor | None = None

    def weigh(self, class_weights: Tensor) -> None:
        """Set the weights of the classes in every cross-entropy, (classes,), on the device of the images."""
        self.class_weights = class_weights

    def bind(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027  # most need neither
        """Set the network and its optimiser, for objectives that change weights; others ignore them.

        Called once, with the network at its pretrained weights: when a run is resumed, before they are overwritten.
        """

    def weight_at(self, step: int) -> float:
        """The penalty's weight at a step, counted from 0."""
        return self.weight

    def resets_optimizer_at(self, step: int) -> bool:
        """Whether the optimiser's state is cleared between this step's gradients and its update."""
        return False

    def check(self, domains: int, images: int) -> None:
        """Check that a step is possible.

        Args:
            domains: number of domains in a batch.
            images: number of images of each domain in a batch.

        Raises:
            UserError: the objective needs more domains or images.
        """
        if domains < self.fewest_domains:
            raise UserError(
                f"{self.name} compares training domains: it needs {self.fewest_domains} or more, not {domains}"
            )
        if images < self.fewest_images:
            raise UserError(
                f"{self.name} needs batches of {self.fewest_images} or more images of each domain, not {images}"
            )

    @abstractmethod
    def backward(self, forward: Forward, images: Tensor, labels: Tensor, domains: int, step: int) -> StepResult:
        """Add the objective's gradients to the ``.grad`` of the parameters.

        Args:
            images: the domains' batches, of equal size, one after the other, (batch, …).
            labels: class of each image, (batch,).
            step: step, counted from 0.

        Raises:
            UserError: there are too few domains, or images of a domain.
            ValueError: the domains' batches are not of equal size.
        """

    def _check_batch(self, images: Tensor, labels: Tensor, domains: int) -> None:
        if domains < 1 or len(images) % domains or len(images) != len(labels):
            raise ValueError(f"{len(images)} images, {len(labels)} labels: not equal batches of {domains} domains")
        self.check(domains, len(images) // domains)


class PenaltyObjective(Objective):
    """The mean cross-entropy plus a penalty that is a function of one forward pass over the whole batch.

    With several dropout masks it is the mean over the masks of the objective under each.
    """

    def backward(self, forward: Forward, images: Tensor, labels: Tensor, domains: int, step: int) -> StepResult:
        """See ``Objective.backward``; one forward pass."""
        self._check_batch(images, labels, domains)
        representation, outputs = forward(images)
        logits = full_precision(outputs)
        loss = cross_entropy(logits, labels, self.class_weights)
        weight = self.weight_at(step)
        penalty = torch.zeros_like(loss)
        if weight:
            penalty = self.penalty(
                full_precision(representation).reshape(domains, -1, representation.shape[1]),
                logits.reshape(-1, domains, len(images) // domains, logits.shape[1]),
                labels.reshape(domains, -1),
            )
        total = loss + weight * penalty if weight else loss
        total.backward()  # type: ignore[no-untyped-call]
        return StepResult(loss.detach(), representation.detach(), penalty.detach())

    @abstractmethod
    def penalty(self, representation: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The penalty, averaged over the masks, ().

        Args:
            representation: representation before dropout, (domains, images, units).
            logits: logits, (masks, domains, images, classes).
            labels: class of each image, (domains, images).
        """


class AnnealedObjective(PenaltyObjective):
    """A penalty whose weight is 1 for ``anneal_steps`` steps and ``weight`` from then on, as in the authors' code.

    With a weight of 0 it is 0 from the first step, so that the objective is ERM.
    """

    recordable = False

    def weight_at(self, step: int) -> float:
        """1 before the annealing step, then ``weight``."""
        return self.weight if step >= self.anneal_steps or self.weight == 0 else 1.0

    def resets_optimizer_at(self, step: int) -> bool:
        """Whether the weight changes at ``step``: the gradients jump, and Adam's averages do not apply (DomainBed)."""
        return step == self.anneal_steps


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats over images and masks, ().

    Args:
        logits: logits of n images under each of K masks, (K · n, classes), all images under the first mask first.
        labels: class of each image, (n,).
        class_weights: factor of the losses of each class' images, (classes,); the mean is over the number of images,
            and not, as ``F.cross_entropy`` has it, over the sum of their weights. By default all are 1.
    """
    targets = labels.repeat(len(logits) // len(labels))
    if class_weights is None:
        return F.cross_entropy(full_precision(logits), targets)
    return (F.cross_entropy(full_precision(logits), targets, reduction="none") * class_weights[targets]).mean()


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or in float64 where it has that type, since losses are not computed in half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
