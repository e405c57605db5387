"""A run: one folder with a fine-tuning's config, its trajectory, its checkpoints and, once it is finished, its result.

config.json              what the run is a function of, and the protocol by which it is trained
log.json                 one entry per evaluation, so far
outputs/000050.safetensors   logits on the i.i.d. and o.o.d. images after step 50 (0: before the first), float16
resume.safetensors       all that is needed to go on; gone once the run is finished
best.safetensors         the checkpoint of best i.i.d. accuracy
average.safetensors      the average of the weights at all evaluations after the first step
final.safetensors        the weights after the last step
swad.safetensors         SWAD's average, where the config asks for it
result.json              the accuracies of every method; its presence says that the run is finished
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import PROTOCOL, Config
from ..errors import UserError
from ..files import read_json
from .protocol import read_config, records_of
from .record import Record

__all__ = ["Run"]


def never_beat(beats_start: Iterable[bool]) -> list[str]:
    """A sentence that counts the runs whose ``beats_start`` is False; none where there are none."""
    known = list(beats_start)
    count = known.count(False)
    if not count:
        return []
    return [
        f"In {count} of {len(known)} runs fine-tuning never beat the head that it started from: the best checkpoint is "
        "that before the first step."
    ]


@dataclass(frozen=True)
class Run:
    """A finished fine-tuning.

    Attributes:
        folder: where its files are.
        config: what it is a function of.
        result: the content of ``result.json``.
        protocol: by which it was trained; its ``records`` are read accordingly.
    """

    folder: Path
    config: Config
    result: dict[str, Any]
    protocol: int = PROTOCOL

    @property
    def best(self) -> Path:
        """The checkpoint of best i.i.d. accuracy, for ``load_model``; of equal ones the earliest.

        In a run of protocol 2 it is that of best accuracy pooled over images, which need not be that of the record.
        """
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
    def beats_start(self) -> bool:
        """Whether a checkpoint after the first step is the best; if not, it is the head that the run started from."""
        return self.result.get("best_step") != 0

    @property
    def records(self) -> list[Record]:
        """One record per method that this trajectory feeds.

        Raises:
            UserError: the result is damaged.
        """
        return records_of(self.config, self.result, self.protocol, self.config.settings)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished run.

        Raises:
            UserError: there is none in ``folder``, its files are damaged, or this version cannot read its protocol.
        """
        folder = Path(folder)
        if not (folder / "result.json").is_file():
            unfinished = " (one was begun there and is not finished)" if (folder / "config.json").is_file() else ""
            raise UserError(f"no finished run in {folder}{unfinished}")
        try:
            config, protocol = read_config(read_json(folder / "config.json"), folder.resolve().name)
        except UserError as error:
            raise UserError(f"cannot open the run in {folder}: {error}") from error
        return cls(folder, config, read_json(folder / "result.json"), protocol)
