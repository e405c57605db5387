"""Linear models with the same batches and masks: their weights, and SGD on all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...config import Config
from ...data.random import torch_seed
from ..problem import Problem
from .result import LinearModel

__all__ = ["Group", "with_ones"]

BLOCK = 16
"""Both sides of a table are multiples of this. Matrix products are then fastest, and sum a row of a table in the same
order for any number of rows: the other settings of a group change no bit of a setting's result."""


def _padded(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def with_ones(rows: int, features: int, dtype: torch.dtype) -> Tensor:
    """An empty factor of a table, (rows, width): ``features`` zeros, a 1 for the bias, and zeros as padding."""
    x = torch.zeros(rows, _padded(features + 1), dtype=dtype)
    x[:, features] = 1
    return x


class Group:
    """Settings that differ in learning rate and weight decay only, so that they share batches and masks.

    The model is y = V Σᵢ (vᵢ ⊙ φᵢ) + b = Σᵢ (V ⊙ vᵢ) φᵢ + b. A setting's V ⊙ v and b are concatenated in ``table``, one
    row for each class, and x has the concatenated features φᵢ and a 1. So one matrix product computes the logits of all
    settings, and another the gradient of the whole table, from which the gradients of V, v and b follow. In a probe, V
    and b are the table.

    Args:
        dtype: type of weights and arithmetic.

    Attributes:
        features: number of features of an image, taps × units.
        rows: number of images in a batch.
        weights: V (settings, classes, units), b (settings, classes) and, except in a probe, v (settings, taps, units).
        table: V ⊙ v and b of all settings, (settings × classes, padded; features + 1, padded).
    """

    def __init__(self, problem: Problem, settings: Sequence[Config], dtype: torch.dtype) -> None:
        self.problem, self.settings = problem, tuple(settings)
        first = self.settings[0]
        self.taps, self.units = problem.taps(first.fit)
        self.features = self.taps * self.units
        self.rows = first.batch * len(problem.train)
        count, classes = len(self.settings), problem.classes
        self.table = torch.zeros(_padded(count * classes), _padded(self.features + 1), dtype=dtype)
        self._errors = torch.zeros(len(self.table), self.rows, dtype=dtype)
        self._gradient = torch.zeros_like(self.table)
        by_tap, bias = self._parts(self.table)
        head = _new_layer(self.units, classes, first.seed)
        bias.copy_(head.bias.detach())
        if first.fit == "probe":
            by_tap.copy_(head.weight.detach()[:, None])
            self.weights = [by_tap[:, :, 0], bias]
            trained = [(self._used(self.table), self._used(self._gradient))]
        else:
            weight = head.weight.detach().to(dtype).repeat(count, 1, 1)
            self.weights = [weight, bias, _first_v(problem, first).to(dtype).repeat(count, 1, 1)]
            trained = [(values, torch.zeros_like(values)) for values in self.weights]
            self._multiply()
        rate = torch.tensor([setting.lr for setting in self.settings], dtype=dtype)
        decay = torch.tensor([setting.weight_decay for setting in self.settings], dtype=dtype)
        self._trained = [(*pair, _beside(rate, pair[0]), _beside(decay, pair[0])) for pair in trained]

    def _used(self, table: Tensor) -> Tensor:
        """A table without padded rows, (settings, classes, width)."""
        count, classes = len(self.settings), self.problem.classes
        return table[: count * classes].view(count, classes, -1)

    def _parts(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of a table: V ⊙ v, (settings, classes, taps, units), and b, (settings, classes)."""
        used = self._used(table)
        return used[..., : self.features].view(*used.shape[:2], self.taps, self.units), used[..., self.features]

    def take(self, features: Tensor, targets: Tensor, masks: Tensor | None, factors: Sequence[float]) -> None:
        """Take some steps of ``torch.optim.SGD`` on the cross-entropy, averaged over a batch.

        Args:
            features: features of each step's batch, (steps, rows, taps × units).
            targets: one-hot labels, (steps, classes, rows).
            masks: factors of the features by dropout, (steps, rows, units); None at a rate of 0.
            factors: factor of the learning rate at each step, (steps,).
        """
        x = with_ones(self.rows, self.features, self.table.dtype)
        kept = x[:, : self.features].view(-1, self.taps, self.units)
        for step, factor in enumerate(factors):
            batch = features[step].view_as(kept)
            if masks is None:
                kept.copy_(batch)
            else:
                torch.mul(batch, masks[step, :, None], out=kept)
            self._step(x, targets[step], factor)

    def _step(self, x: Tensor, target: Tensor, factor: float) -> None:
        logits = self.logits(x, self.table).permute(1, 2, 0)  # softmax is fastest along the second of three axes
        torch.sub(logits.softmax(1), target, out=self._used(self._errors))
        momentum, probe = self.settings[0].momentum, len(self.weights) == 2
        # In a probe the table itself is trained, and ``_gradient`` is its velocity.
        self._gradient.addmm_(self._errors, x, beta=momentum if probe else 0, alpha=1 / self.rows)
        if not probe:
            self._divide(momentum)
        for values, velocity, rate, decay in self._trained:
            velocity.addcmul_(values, decay)
            values.addcmul_(velocity, rate, value=-factor)
        if not probe:
            self._multiply()

    def _divide(self, momentum: float) -> None:
        """Add the gradients of V, b and v, from the table's gradient, to their velocities."""
        weight, _, v = self.weights
        of_weight, of_bias, of_v = (velocity.mul_(momentum) for _, velocity, _, _ in self._trained)
        by_tap, bias = self._parts(self._gradient)
        of_bias += bias
        for tap in range(self.taps):  # faster than a sum over products
            of_weight.addcmul_(by_tap[:, :, tap], v[:, tap, None])
        for number in range(self.problem.classes):
            of_v.addcmul_(by_tap[:, number], weight[:, number, None])

    def _multiply(self) -> None:
        """Write V ⊙ v into the table."""
        weight, _, v = self.weights
        torch.mul(weight[:, :, None], v[:, None], out=self._parts(self.table)[0])

    def table_of(self, weights: Sequence[Tensor]) -> Tensor:
        """The table of other weights, with the shapes of ``weights``."""
        table = torch.zeros_like(self.table)
        by_tap, bias = self._parts(table)
        by_tap.copy_(weights[0][:, :, None] * (weights[2][:, None] if len(weights) == 3 else 1))
        bias.copy_(weights[1])
        return table

    def logits(self, x: Tensor, table: Tensor) -> Tensor:
        """Logits, (rows, settings, classes), of a table and features in the form of ``with_ones``, (rows, width)."""
        count, classes = len(self.settings), self.problem.classes
        return torch.mm(x, table.T)[:, : count * classes].view(len(x), count, classes)

    def finite(self) -> list[bool]:
        """Whether all weights of each setting are finite."""
        used = self.table[: len(self.settings) * self.problem.classes]
        return used.view(len(self.settings), -1).isfinite().all(1).tolist()

    def model(self, index: int, weights: Sequence[Tensor]) -> LinearModel:
        """A copy of the weights of one setting."""
        return LinearModel(*(values[index].clone(memory_format=torch.contiguous_format) for values in weights))


def _beside(each: Tensor, values: Tensor) -> Tensor:
    """One number for each setting, with as many axes as ``values``."""
    return each.view(-1, *[1] * (values.ndim - 1))


def _first_v(problem: Problem, setting: Config) -> Tensor:
    """The initial v, (taps, units).

    The paper does not specify it; its public code draws v from a standard normal. With 1 for the last tap and 0 for the
    others the model starts as a new layer on the pretrained representation: in a residual network taps contain the
    earlier ones, so all ones would count some blocks three times. For concatenated taps the same holds for parts of v.
    """
    taps, units = problem.taps(setting.fit)
    if setting.v_start == "normal":
        return torch.randn(taps, units, generator=torch.Generator().manual_seed(torch_seed("linear v", setting.seed)))
    v = torch.zeros(taps, units)
    v[-1, -problem.widths[-1] :] = 1
    return v


def _new_layer(units: int, classes: int, seed: int) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("linear head", seed))
        return torch.nn.Linear(units, classes)
