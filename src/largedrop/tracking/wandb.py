"""Weights & Biases: its server, or its files on this machine where ``WANDB_MODE`` is ``offline``."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from ..errors import UserError
from ..files import read_json, write_json
from .base import PROJECT, RESULT, Tracked, Tracker

__all__ = ["WandB"]

SECONDS = 60.0
"""How long is waited for the server."""

SENT = "wandb.json"
"""The file in a run's folder that says what wandb's files have offline, which wandb does not read again."""


class WandB(Tracker):
    """A run whose id is its digest, in the project ``WANDB_PROJECT``."""

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise UserError("not logged in: `wandb login`, or WANDB_MODE=offline")
        self.handle = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.digest,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            resume="allow",
            reinit="create_new",  # next to the others of several processes
            settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS),
        )
        self.last = self.handle.step - 1
        self.ended = any(name.startswith(RESULT) for name in self.handle.summary.keys())  # noqa: SIM118  # no mapping
        self.memory = run.folder / SENT
        if self.handle.offline and self.memory.is_file():
            sent = read_json(self.memory)
            self.last, self.ended = sent["last"], sent["ended"]

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store a row of the history."""
        self.handle.log(dict(numbers), step=step, commit=True)  # at once
        self._remember(step)

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store the result in the summary."""
        self.handle.summary.update(dict(numbers))
        self.ended = True
        self._remember(step)

    def close(self) -> None:
        """Wait until wandb has sent everything; a run that has not ended is not marked as finished."""
        self.handle.finish(exit_code=0 if self.ended else 1)

    def _remember(self, last: int) -> None:
        if self.handle.offline:
            write_json(self.memory, {"last": last, "ended": self.ended})
