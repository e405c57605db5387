"""What a tracker is to the runs that are followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PROJECT", "RESULT", "Tracked", "Tracker"]

PROJECT = "largedrop"
"""The project or experiment of all runs, where the tracker's own environment variable names no other."""

RESULT = "result/"
"""How the names of a result's numbers begin."""


@dataclass(frozen=True)
class Tracked:
    """A run as trackers know it.

    Attributes:
        digest: digest of its config: the same config is the same run, on whatever day it goes on.
        name: name of its folder.
        group: name of the comparison's or sweep's folder, or of the folder above the run's.
        folder: its folder.
        config: content of its ``config.json``.
    """

    digest: str
    name: str
    group: str
    folder: Path
    config: Mapping[str, Any]


class Tracker:
    """One run in a tracker, begun, or found again under its digest or name.

    Whatever a method raises ends the tracking with one line, and never the training. Methods are called in one thread.

    Attributes:
        last: the last step that the tracker has numbers of; -1 where it has none.
        ended: whether it has the result.
    """

    last: int = -1
    ended: bool = False

    def __init__(self, run: Tracked) -> None:
        self.run = run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store the numbers of the evaluation after ``step``; called once for each, in order."""

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store the numbers of the result of a run of so many steps; called once."""

    def close(self) -> None:
        """Let go of the run: it has ended, or goes on another day, or has failed."""
