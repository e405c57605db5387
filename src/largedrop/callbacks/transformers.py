"""The callback for transformers' ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DamagedError, UserError, one_of
from ..models.dropout import check_masks, check_rate, set_dropout
from ..runs.checkpoint import read_tensors, write_tensors
from ..training.along import OVER_EVALUATIONS, TrajectoryAverage, check_settings

try:
    from transformers import TrainerCallback
except ImportError as missing:
    raise UserError('TransformersCallback needs transformers: pip install "largedrop[transformers]"') from missing

__all__ = ["TransformersCallback"]

FILE = "largedrop.safetensors"
"""The average so far, in each of the trainer's checkpoints."""


class TransformersCallback(TrainerCallback):  # type: ignore[misc]
    """Dropout on the representation, and an average of the weights along the training, in transformers' ``Trainer``.

    When training begins the model gets its dropout; when it ends, the model has the average's weights, moved a share of
    the way back to those of the start. The trainer's checkpoints are of the weights on the trajectory; the average so
    far is beside them, so ``train(resume_from_checkpoint=True)`` goes on to the same end.

    With several masks the labels are repeated for the model's own loss (see ``set_dropout``); a ``compute_loss_func``
    gets as many times more rows of logits in training than labels.

    Args:
        average: ``exponential`` (over all steps), ``uniform`` (over evaluations), ``swad`` (over the steps that the
            evaluation loss determines) or ``last`` (none); those of ``TrajectoryAverage``.
        dropout: rate λ in [0, 1) for ``set_dropout``; None leaves the model's dropout as it is.
        masks: number of masks for each example; 16 is a good number for a rate of 0.9.
        head: dotted name of the head inside the model, or of each head; where None, found by their usual names.
        decay: decay of the exponential average.
        way_back: share of the way back to the weights that training began with, whose head should be fitted already.
        monitor: name of the evaluation loss for ``swad``.
        inputs: batches for ``update_batchnorm``, where batch norms learn statistics.
        resume_from: the checkpoint's folder, where training goes on from one that is not in ``output_dir``.

    Raises:
        UserError: an argument is out of range; in training, the model has no such head, the arguments shard weights or
            load the best model at the end, the loss is not in the metrics, or the checkpoint has no average or one of
            other settings.
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
        monitor: str = "eval_loss",
        inputs: Iterable[Any] | None = None,
        resume_from: str | Path | None = None,
    ) -> None:
        check_settings(average, decay, way_back)
        self.dropout = None if dropout is None else check_rate(dropout)
        self.kind, self.masks, self.head, self.decay, self.way_back = average, check_masks(masks), head, decay, way_back
        self.monitor, self.inputs, self.resume_from = monitor, inputs, resume_from
        self.average: TrajectoryAverage | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Set the dropout, and begin the average, or go on with that of the checkpoint."""
        model = others["model"]
        if args.fsdp or args.deepspeed:
            raise UserError("FSDP and DeepSpeed shard the weights, which are averaged whole here")
        if args.load_best_model_at_end and self.kind != "last":
            raise UserError(
                f"'{self.kind}' hands over an average: set load_best_model_at_end to False, or average='last'"
            )
        if self.kind in OVER_EVALUATIONS and args.eval_strategy == "no":  # rather than at the end
            raise UserError(
                f"'{self.kind}' is over evaluations: set eval_strategy to 'epoch', or average='exponential'"
            )
        if args.label_smoothing_factor and self.masks > 1:
            raise UserError("the trainer's label smoothing takes one mask for each example: set masks to 1")
        if self.dropout is not None:
            set_dropout(model, self.dropout, self.head, self.masks)
        self.average = TrajectoryAverage(model, self.kind, decay=self.decay, way_back=self.way_back)
        if state.global_step:
            folder = _checkpoint(args, state) if self.resume_from is None else Path(self.resume_from)
            try:
                tensors, header = read_tensors(folder / FILE, "trajectory average")
            except DamagedError as error:
                raise UserError(
                    f"training goes on from step {state.global_step}, and its average cannot: {error} "
                    "(resume_from=… names another folder)"
                ) from error
            self.average.load(header["average"], tensors)
            if self.average.steps != state.global_step:
                raise UserError(f"{folder / FILE} is of step {self.average.steps}, not {state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Add the weights after a step of the optimiser."""
        if self.average is not None:
            self.average.after_step()

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Add an evaluation."""
        if self.average is None or self.average.handed_over:
            return
        metrics = others.get("metrics") or {}
        if self.kind == "swad" and self.monitor not in metrics:
            raise UserError(f"swad needs '{self.monitor}', {one_of(self.monitor, metrics)}")
        self.average.evaluated(metrics.get(self.monitor))

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write the average into the checkpoint; a trial of a search is never gone on with."""
        if self.average is not None and state.is_world_process_zero and not state.is_hyper_param_search:
            header, tensors = self.average.state()
            write_tensors(_checkpoint(args, state) / FILE, tensors, "trajectory average", {"average": header})

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Hand the average over."""
        if self.average is not None:
            self.average.hand_over(self.inputs)


def _checkpoint(args: Any, state: Any) -> Path:
    """The folder of the trainer's checkpoint at this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
