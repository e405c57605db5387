"""From workers that were started to a sweep that has ended: the folder says what was done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ...errors import Interrupted, UserError
from ...lease import holder_of
from ...reporter import Reporter
from ...runs.content import is_finished
from ...runs.failure import read_failure
from ..sweep import PlannedRun, SweepPlan
from .worker import last_words

__all__ = ["Workers", "follow_workers"]

LOOK_EVERY = 2.0
"""Seconds between two looks at the folder, at least."""

LOOKING = 0.05
"""Largest share of the time that goes into looking: a shared file system may take a millisecond for each run."""

SPARE, RECENT = 3, 600.0
"""Number of workers, beside one for each job, that may be started within so many seconds in which no run ends."""


class Workers(Protocol):
    """What a launcher has started.

    Attributes:
        jobs: number of workers that are wanted at once.
    """

    jobs: int

    def start(self, count: int) -> None:
        """Start workers.

        Raises:
            UserError: that is not possible.
        """

    def alive(self) -> int:
        """Number of workers that were started and have not ended; one that waits for its turn is alive.

        Raises:
            UserError: what they were started by is gone.
        """

    def leave(self) -> str:
        """Stop the workers, or leave them; returns what the user should know about that."""

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def follow_workers(workers: Workers, planned: SweepPlan, log: Path, reporter: Reporter) -> None:
    """Start workers, and others where they die, until every run of a plan has ended.

    Args:
        log: folder of what the workers print.

    Raises:
        UserError: workers end without ending a run.
        Interrupted: the reporter asks to stop.
    """
    left = list(planned.pending)
    started: list[float] = []  # when, since a run has ended
    while True:
        began = time.monotonic()
        before, left = len(left), [entry for entry in left if not _has_ended(entry, reporter)]
        if len(left) < before:
            started = []
        if not left:
            return
        missing = min(workers.jobs - workers.alive(), len(left))
        if missing > 0 and (missing := min(missing, _free(left, missing))) > 0:
            started = [at for at in started if began - at < RECENT]
            if len(started) > workers.jobs + SPARE:
                said = last_words(log)
                raise UserError(
                    f"the workers end without finishing any of {len(left)} runs; {log} has what they say"
                    + (f", the last: {said}" if said else "")
                )
            workers.start(missing)
            started += [began] * missing
        _pause(max(LOOK_EVERY, (time.monotonic() - began) / LOOKING), reporter.stopped, workers)


def _has_ended(entry: PlannedRun, reporter: Reporter) -> bool:
    """Whether a run has ended; the reporter is told how."""
    if is_finished(entry.folder):
        reporter.advance(entry.cost)
        reporter.logged(entry.folder)
        return True
    failure = read_failure(entry.folder)
    if failure is not None:
        reporter.failed(entry.config, str(failure[0]))
    return failure is not None


def _free(left: list[PlannedRun], most: int) -> int:
    """Number of runs that a worker could take, counted up to ``most``."""
    count = 0
    for entry in left:
        with suppress(OSError):  # it is not there yet; or cannot be read, which a worker will say
            if holder_of(entry.folder) is not None:
                continue
        count += 1
        if count == most:
            break
    return count


def _pause(seconds: float, stopped: Callable[[], bool], workers: Workers) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stopped():
            raise Interrupted(f"stopped; {workers.leave()}")
        time.sleep(0.2)
