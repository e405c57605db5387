"""The callback for Lightning's ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UserError, one_of
from ..models.dropout import check_masks, check_rate, set_dropout
from ..training.along import OVER_EVALUATIONS, TrajectoryAverage, check_settings

try:
    from lightning.pytorch import Callback
except ImportError as missing:
    raise UserError('LightningCallback needs lightning: pip install "largedrop[lightning]"') from missing

__all__ = ["LightningCallback"]

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class LightningCallback(Callback):  # type: ignore[misc]
    """Dropout on the representation, and an average of the weights along the training, in Lightning's ``Trainer``.

    When ``fit`` begins the module gets its dropout; when it ends, the module has the average's weights, moved a share
    of the way back to those of the start. Lightning's checkpoints are of the weights on the trajectory and hold the
    average so far, so a training goes on from one (``fit(…, ckpt_path=…)``) to the same end. After ``fit``,
    ``trainer.test(module)`` tests what was handed over, and ``trainer.test(ckpt_path=…)`` a checkpoint.

    With several masks the module's logits have as many times more rows in training: ``training_step`` takes
    ``labels.repeat(len(logits) // len(labels))``.

    Args:
        average: ``exponential`` (over all steps), ``uniform`` (over validations), ``swad`` (over the steps that the
            validation loss determines) or ``last`` (none); those of ``TrajectoryAverage``.
        dropout: rate λ in [0, 1) for ``set_dropout``; None leaves the module's dropout as it is.
        masks: number of masks for each example; 16 is a good number for a rate of 0.9.
        head: dotted name of the head inside the LightningModule, such as ``network.fc``, or of each head; where None,
            found by their usual names.
        decay: decay of the exponential average.
        way_back: share of the way back to the weights that ``fit`` began with, whose head should be fitted already.
        monitor: name of the logged validation loss for ``swad``.
        inputs: batches for ``update_batchnorm``, where batch norms learn statistics: a loader of training images.

    Raises:
        UserError: an argument is out of range; in ``fit``, the module has no such head, the strategy shards weights,
            the monitored loss is not logged, or the checkpoint is of other settings.
    """

    def __init__(
        self,
        average: str = "exponential",
        *,
        dropout: float | None = None,
        masks: int = 1,
        head: str | Sequence[str] | None = None,
        decay: float = 0.99,
        way_back: float = 0.0,
        monitor: str = "val_loss",
        inputs: Iterable[Any] | None = None,
    ) -> None:
        check_settings(average, decay, way_back)
        self.dropout = None if dropout is None else check_rate(dropout)
        self.kind, self.masks, self.head, self.decay, self.way_back = average, check_masks(masks), head, decay, way_back
        self.monitor, self.inputs = monitor, inputs
        self.average: TrajectoryAverage | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._step = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the dropout."""
        if type(trainer.strategy).__name__ in _SHARDED:
            raise UserError(f"{type(trainer.strategy).__name__} shards the weights, which are averaged whole here")
        if self.dropout is not None:
            set_dropout(pl_module, self.dropout, self.head, self.masks)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the average, or go on with that of the checkpoint."""
        if trainer.global_step and self._loaded is None:
            if self.average is not None:
                raise UserError("the average has been handed over: train on with a new Trainer and callback")
            raise UserError("the checkpoint to go on from was not written with a LightningCallback")
        if self.kind in OVER_EVALUATIONS and not trainer.enable_validation:  # rather than at the end
            raise UserError(f"'{self.kind}' is over validations, and fit has no validation data: take 'exponential'")
        self._begin(trainer, pl_module)

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        self.average = TrajectoryAverage(pl_module, self.kind, decay=self.decay, way_back=self.way_back)
        if self._loaded is not None and trainer.global_step:
            self.average.load(self._loaded["header"], self._loaded["tensors"])
        self._loaded, self._step = None, trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Add the weights, where the batch ended in a step of the optimiser."""
        if self.average is not None and trainer.global_step != self._step:
            self._step = trainer.global_step
            self.average.after_step()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Add an evaluation."""
        if self.average is None or self.average.handed_over or trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get(self.monitor)
        if self.kind == "swad" and loss is None:
            raise UserError(f"swad needs '{self.monitor}', {one_of(self.monitor, trainer.callback_metrics)}")
        self.average.evaluated(loss)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Hand the average over: after the last checkpoint, which are of the trajectory's weights."""
        if self._loaded is not None and trainer.global_step:  # gone on from its last checkpoint: no step was left
            self._begin(trainer, pl_module)
        if self.average is None:
            return
        left_on = pl_module.device
        pl_module.to(trainer.strategy.root_device)
        self.average.hand_over(self.inputs)
        pl_module.to(left_on)

    def state_dict(self) -> dict[str, Any]:
        """The average so far, for Lightning's checkpoint."""
        if self.average is None:
            return {}
        header, tensors = self.average.state()
        return {"header": header, "tensors": tensors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for ``on_train_start``, when there is a module."""
        self._loaded = state_dict or None
