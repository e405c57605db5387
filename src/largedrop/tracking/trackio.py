"""trackio: its database on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import Context

import trackio

from .base import PROJECT, RESULT, Tracked, Tracker

__all__ = ["Trackio"]


class Trackio(Tracker):
    """A run in the project ``TRACKIO_PROJECT``, found again by its name, which ends in its digest."""

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = run.name if run.name.endswith(run.digest) else f"{run.name}-{run.digest}"
        for row in trackio.SQLiteStorage.get_logs(project, name):
            self.last = max(self.last, row["step"])
            self.ended |= any(key.startswith(RESULT) for key in row)
        options = {"group": run.group, "config": dict(run.config), "resume": "allow", "embed": False}
        # In a context of its own, where there is no other run that trackio would finish.
        self.handle = Context().run(trackio.init, project, name, auto_log_cpu=False, auto_log_gpu=False, **options)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store a row."""
        self.handle.log(dict(numbers), step=step)

    end = log

    def close(self) -> None:
        """Wait until trackio has written everything."""
        self.handle.finish()
