"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import Config
from ..reporter import Reporter
from ..runs.estimate import duration

if TYPE_CHECKING:
    from ..data.dataset import Dataset

__all__ = ["Bar", "open_images", "say"]


LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


class Bar(Reporter):
    """The progress of one piece of work, on a terminal or in lines; a context manager.

    Args:
        console: where it is drawn.
        total: the whole work, in any unit.
        what: the name of the work.
        runs: how many runs it trains, at most.
        name: of a run.
    """

    def __init__(
        self,
        console: Console,
        total: float,
        what: str,
        runs: int = 0,
        name: Callable[[Config], str] = lambda config: config.run_name,
    ) -> None:
        self.console, self.total, self.what = console, total, what
        self.runs, self.name = runs, name
        self.done = 0.0
        self._asked = threading.Event()
        self._noted: set[str] = set()
        self._numbers: dict[Config, int] = {}
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

    def begin(self, config: Config) -> None:
        """Name the run, and say which of how many it is; one that is begun again keeps its number."""
        number = self._numbers.setdefault(config, len(self._numbers) + 1)
        self.describe(f"{number}/{self.runs} {self.name(config)}")

    def note(self, text: str) -> None:
        """Print a line, once."""
        if text not in self._noted:
            say(self.console, text)
        self._noted.add(text)

    def failed(self, config: Config, reason: str) -> None:
        """Print a line."""
        say(self.console, f"{self.name(config)}: {reason}")

    def stopped(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self._asked.is_set()

    def advance(self, work: float) -> None:
        """Take so much as done."""
        self.done += work
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, work)
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
    def interruptible(self) -> Iterator[None]:
        """Turn the first Ctrl-C (or SIGTERM) into ``stopped``, so that a run can save its state first."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self._asked.is_set():
                raise KeyboardInterrupt
            self._asked.set()
            print("\nlargedrop: stopping after this step, to save it (Ctrl-C again stops at once)", file=sys.stderr)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def say(console: Console, *lines: str) -> None:
    """Print lines as they are, however wide the terminal is."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def open_images(console: Console, source: str, sizes: Iterable[int], skip_bad_images: bool = False) -> Dataset:
    """The dataset ``source``, for networks that see images of these sizes; says how many images were left out."""
    from ..data import open_dataset

    bound = max(320, *(size * 5 // 4 for size in sizes))
    with Bar(console, 1, f"opening {source}") as bar:
        data = open_dataset(source, bound=bound, skip_bad_images=skip_bad_images, progress=bar.set)
    if data.skipped:
        say(console, f"left out {len(data.skipped)} images that cannot be decoded")
    return data
