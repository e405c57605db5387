"""The results of a linear fit: evaluations and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...config import Config

__all__ = ["LinearEvaluation", "LinearModel", "LinearResult"]


@dataclass(frozen=True)
class LinearEvaluation:
    """Scores after a step; accuracies are of float16 logits.

    Attributes:
        step: number of steps taken.
        iid_accuracy: accuracy on the held-out images, mean over the training domains, fraction.
        ood_accuracy: accuracy on the test domains, their mean, fraction; None where there is none.
        iid_loss: cross-entropy on the held-out images, mean over the training domains, in nats.
        iid_accuracy_pooled: accuracy on the held-out images of all training domains together, fraction.
        iid_macro_accuracy: macro accuracy (``evaluation.macro_over_domains``) on the held-out images, fraction.
        ood_macro_accuracy: macro accuracy on the test domains, their mean, fraction; None where there is none.
        ood_by_domain: accuracy on each test domain, where there are several.
        ood_macro_by_domain: macro accuracy on each of them.
    """

    step: int
    iid_accuracy: float
    ood_accuracy: float | None
    iid_loss: float
    iid_accuracy_pooled: float
    iid_macro_accuracy: float
    ood_macro_accuracy: float | None
    ood_by_domain: Mapping[str, float] | None = None
    ood_macro_by_domain: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields; those by test domain only where there are several."""
        return {name: value for name, value in asdict(self).items() if value is not None or "by_domain" not in name}


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A trained model.

    Attributes:
        weight: V, (classes, units).
        bias: b, (classes,).
        v: v, (taps, units), or (1, sum of widths) where the taps' widths differ; None in a probe.
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
    """The result of a setting.

    Attributes:
        setting: config of the setting.
        evaluations: the evaluations before the setting diverged, if it did.
        best: evaluation of best i.i.d. accuracy; in a tie, the earliest; None where there is no evaluation.
        best_model: model at ``best``.
        last_model: model after the last step.
        mean_model: model of the weights averaged over the evaluations.
        mean: scores of ``mean_model``.
        diverged_at: step of the first evaluation at which weights were not finite; None where all were.
        iid_logits: logits averaged over the evaluations (the ensemble), float32 (n_iid, classes), where kept.
        ood_logits: logits averaged over the evaluations, float32 (n_ood, classes), where kept.
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
