"""Tasks that several processes take, here and on other machines: each the next that no other has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..config import Config
from ..errors import Interrupted
from ..lease import LOOK, Holder, holder_of
from ..reporter import Reporter
from ..runs.content import is_finished
from ..runs.failure import read_failure

__all__ = ["Task", "Tasks"]

Task = tuple[Config, Path]
"""A config and the folder to train it in."""

PAUSE = 0.2
"""Seconds between two calls of ``Reporter.stopped`` while there is nothing to do but to wait."""


class Tasks:
    """Tasks in their order, without those that were taken.

    Args:
        tasks: the tasks; one is asked for when it may be taken.
        reporter: receives a note about the first wait, and is asked whether to stop.
        wait: whether to wait for runs that other processes have: one that finishes or fails is then given as well, and
            one whose process dies is taken. Otherwise they are left.
    """

    def __init__(self, tasks: Sequence[Task], reporter: Reporter, *, wait: bool) -> None:
        self.wait = wait
        self._tasks, self._reporter = tasks, reporter
        self._left = list(range(len(tasks)))
        self._taken: dict[Path, int] = {}
        self._looked = float("-inf")
        self._noted = False

    def __len__(self) -> int:
        return len(self._left)

    def take(self) -> Task | None:
        """The first that no other process has, or has ended and is waited for; None where there is none now."""
        if time.monotonic() - self._looked < LOOK:
            return None
        holders: list[Holder] = []
        while len(holders) < len(self._left):
            task = self._tasks[self._left[len(holders)]]
            folder = task[1]
            ended = is_finished(folder) or read_failure(folder) is not None
            holder = None if ended else _holder(folder)
            if holder is not None:
                holders.append(holder)
            elif ended and not self.wait:
                del self._left[len(holders)]
            else:
                self._taken[folder] = self._left.pop(len(holders))
                return task
        self._looked = time.monotonic()
        if holders and self.wait and not self._noted:
            self._noted = True
            self._reporter.note(f"waiting for {len(holders)} that others train: {_listed(holders)}")
        return None

    def put_back(self, task: Task) -> None:
        """Give a task back that another process was faster to take."""
        self._left.insert(0, self._taken[task[1]])

    def __iter__(self) -> Iterator[Task]:
        """Each task as it can be taken.

        Raises:
            Interrupted: the reporter asks to stop during a wait.
        """
        while self._left:
            task = self.take()
            if task is not None:
                yield task
            elif not self.wait:
                return
            elif self._reporter.stopped():
                raise Interrupted("stopped while other processes trained")
            else:
                time.sleep(PAUSE)


def _holder(folder: Path) -> Holder | None:
    with suppress(OSError):  # which taking it says
        return holder_of(folder)
    return None


def _listed(holders: Sequence[Holder], most: int = 3) -> str:
    names = list(dict.fromkeys(map(str, holders)))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
