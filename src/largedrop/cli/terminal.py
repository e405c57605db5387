"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..runs.estimate import duration

__all__ = ["Bar", "interruptible"]


LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


class Bar:
    """The progress of one piece of work; a context manager.

    Args:
        console: where it is drawn.
        total: the whole work, in any unit.
        what: the name of the work.
    """

    def __init__(self, console: Console, total: float, what: str) -> None:
        self.console, self.total, self.what = console, total, what
        self.done = 0.0
        self._began = self._said = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                speed_estimate_period=120.0,
            )
            self._task = self._progress.add_task(what, total=total)

    def describe(self, what: str) -> None:
        """Name what is being done now."""
        self.what = what
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what)

    def set(self, done: float, total: float) -> None:
        """Say how much of how much is done."""
        self.total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=total)
        self.advance(done - self.done)

    def advance(self, amount: float) -> None:
        """Take ``amount`` of the work as done."""
        self.done += amount
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            share = min(self.done / self.total, 1.0) if self.total else 1.0
            left = (self._said - self._began) * (1 - share) / max(share, 1e-9)
            self.console.print(f"{self.what}: {share:.0%} of all, {duration(left)} left", highlight=False)

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def interruptible(notice: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into the answer to a question, so that a run can save its state first.

    Args:
        notice: called at the first, to tell the user that it was heard.

    Yields:
        A function that says whether the user asked to stop.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if notice is not None:
            notice()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
