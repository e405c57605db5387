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

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import UserError
from ..files import is_leftover, write_json
from ..study.records import Record

__all__ = ["Run", "claim_folder", "read_json"]

NOT_SETTINGS = ("fingerprint", "dropout", "test_domain", "seed", "steps")
"""Fields of the config that a record names itself, or that say nothing to a reader."""


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
    def records(self) -> list[Record]:
        """One record per method that this trajectory feeds."""
        settings = {key: value for key, value in self.config.to_json().items() if key not in NOT_SETTINGS}
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


def claim_folder(folder: Path, config: Config) -> None:
    """Make ``folder`` the one of ``config``, or see that it already is.

    Raises:
        UserError: it belongs to another config (the settings that differ are named), holds something else, or cannot be
            written.
    """
    path = folder / "config.json"
    if path.is_file():
        theirs, ours = read_json(path), config.to_json()
        different = [key for key in (entry.name for entry in fields(Config)) if theirs.get(key) != ours[key]]
        if different:
            listed = ", ".join(f"{key} {theirs.get(key)!r} instead of {ours[key]!r}" for key in different[:4])
            raise UserError(f"{folder} belongs to another config: {listed}; name another --output")
        return
    if folder.is_dir() and any(entry.name != ".lock" and not is_leftover(entry) for entry in folder.iterdir()):
        raise UserError(f"{folder} holds other files and no run; name another --output")
    write_json(path, config.to_json())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, unreadable or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no object")
    return content
