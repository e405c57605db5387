"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard.summary import text

from .base import RESULT, Tracked, Tracker

__all__ = ["TensorBoard"]

CONFIG = "config/text_summary"
"""The tag that TensorBoard makes of ``config``."""


class TensorBoard(Tracker):
    """The folder ``tensorboard`` in a run's folder, for ``tensorboard --logdir`` of any folder above.

    All numbers of a step are one record, which a kill leaves whole or not at all.
    """

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        self.folder = run.folder / "tensorboard"
        self.writer: EventFileWriter | None = None  # which makes a file
        self.has_config = False
        for path in sorted(self.folder.glob("events.*")):
            for event in EventFileLoader(str(path)).Load():
                for tag in (value.tag for value in event.summary.value):
                    if tag == CONFIG:
                        self.has_config = True
                    else:
                        self.last, self.ended = max(self.last, event.step), self.ended or tag.startswith(RESULT)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write a record, and the config before the first."""
        if not self.has_config:
            self.has_config = True
            shown = f"```json\n{json.dumps(self.run.config, indent=2)}\n```"
            self._write(0, text("config", shown))  # type: ignore[no-untyped-call]
        self._write(step, Summary(value=[Summary.Value(tag=name, simple_value=numbers[name]) for name in numbers]))

    end = log

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()

    def _write(self, step: int, summary: Summary) -> None:
        self.writer = self.writer or EventFileWriter(str(self.folder))
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self.writer.flush()
