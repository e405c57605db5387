"""A run: one folder with a fine-tuning's config, its trajectory, its checkpoints and, once it is finished, its result.

config.json              what the run is a function of
log.json                 one entry per evaluation, so far
outputs/000050.safetensors   logits on the i.i.d. and o.o.d. images after step 50, float16
resume.safetensors       all that is needed to go on; gone once the run is finished
best.safetensors         the checkpoint of best i.i.d. accuracy
average.safetensors      the average of the weights at all evaluations
final.safetensors        the weights after the last step
swad.safetensors         SWAD's average, where the config asks for it
result.json              the accuracies of every method; its presence says that the run is finished
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import UserError
from ..files import read_json
from .record import Record

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """A finished fine-tuning.

    Attributes:
        folder: where its files are.
        config: what it is a function of.
        result: the content of ``result.json``.
    """

    folder: Path
    config: Config
    result: dict[str, Any]

    @property
    def best(self) -> Path:
        """The checkpoint of best i.i.d. accuracy, for ``load_model``."""
        return self.folder / "best.safetensors"

    @property
    def average(self) -> Path:
        """The average of the weights along the trajectory, for ``load_model``."""
        return self.folder / "average.safetensors"

    @property
    def final(self) -> Path:
        """The weights after the last step, for ``load_model``; runs of older versions have none."""
        return self.folder / "final.safetensors"

    @property
    def swad(self) -> Path:
        """SWAD's average, for ``load_model``; only runs whose config has ``swad`` write it."""
        return self.folder / "swad.safetensors"

    @property
    def records(self) -> list[Record]:
        """One record per method that this trajectory feeds."""
        settings = self.config.settings
        return [
            Record(
                method=method,
                dropout=self.config.dropout,
                test_domain=self.config.test_domain,
                seed=self.config.seed,
                iid_accuracy=found["iid_accuracy"],
                ood_accuracy=found["ood_accuracy"],
                steps=found["steps"],
                seconds=found["seconds"],
                settings=settings,
            )
            for method, found in self.result["methods"].items()
        ]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished run.

        Raises:
            UserError: there is none in ``folder``, or its files are damaged.
        """
        folder = Path(folder)
        if not (folder / "result.json").is_file():
            unfinished = " (one was begun there and is not finished)" if (folder / "config.json").is_file() else ""
            raise UserError(f"no finished run in {folder}{unfinished}")
        try:
            config = Config.from_json(read_json(folder / "config.json"))
        except UserError as error:
            raise UserError(f"cannot open the run in {folder}: {error}") from error
        return cls(folder, config, read_json(folder / "result.json"))
