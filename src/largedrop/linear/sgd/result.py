"""What comes of training a linear model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ...config import Config

__all__ = ["LinearEvaluation", "LinearModel", "LinearResult"]


@dataclass(frozen=True)
class LinearEvaluation:
    """Scores after a step, from float16 logits, as everywhere.

    Attributes:
        step: number of steps taken.
        iid_accuracy: share of right answers on the held-out images, the mean over the training domains.
        ood_accuracy: share of right answers on the test domain.
        iid_loss: cross-entropy on the held-out images, in nats, the mean over the training domains.
        iid_accuracy_pooled: share of right answers on the held-out images of all training domains together.
    """

    step: int
    iid_accuracy: float
    ood_accuracy: float
    iid_loss: float
    iid_accuracy_pooled: float


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A trained model.

    Attributes:
        weight: V, (classes, units).
        bias: b, (classes,).
        v: (taps, units), or None in a probe. Taps of different widths lie side by side, (1, sum of widths).
    """

    weight: Tensor
    bias: Tensor
    v: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, (n, classes), of features (n, sum of the taps' widths)."""
        features = features.to(self.weight.dtype)
        if self.v is None:
            adapted = features[:, -self.weight.shape[1] :]
        else:
            adapted = (features.reshape(len(features), *self.v.shape) * self.v).sum(1)
        return F.linear(adapted, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class LinearResult:
    """What came of a setting.

    Attributes:
        setting: it.
        evaluations: one each; of a diverged setting those before it was seen.
        best: the evaluation of best i.i.d. accuracy, the first of several; None where the setting diverged before any.
        best_model: the model then.
        last_model: the model after the last step.
        mean_model: the weights averaged over the evaluations.
        mean: its scores.
        diverged_at: step after which an evaluation found weights that are not finite; None where all were.
        iid_logits: averaged over the evaluations (the trajectory's ensemble), float32 (iid images, classes), if asked.
        ood_logits: likewise on the test domain.
    """

    setting: Config
    evaluations: tuple[LinearEvaluation, ...]
    best: LinearEvaluation | None
    best_model: LinearModel | None
    last_model: LinearModel
    mean_model: LinearModel
    mean: LinearEvaluation
    diverged_at: int | None
    iid_logits: Tensor | None
    ood_logits: Tensor | None
