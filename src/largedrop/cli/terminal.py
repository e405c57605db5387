"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..config import Config
from ..reporter import Reporter
from ..runs.estimate import duration

if TYPE_CHECKING:
    from ..data.dataset import Dataset

__all__ = ["Bar", "open_images", "say"]

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw a bar on."""

RECENT = 120.0
"""Seconds whose pace the time left is computed from."""

LEAST_SECONDS, LEAST_SHARE, SURE_SECONDS = 10.0, 0.02, 300.0
"""A time left means something after so many seconds and that share of the work, or after the last of these."""


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
        self._skipped = 0.0
        self._began = self._said = time.monotonic()
        self._seen = deque([(self._began, 0.0)])
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            _Left(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(what, total=total)

    def describe(self, what: str) -> None:
        """Name what is being done now."""
        self.what = what
        self._progress.update(self._task, description=what)

    def set(self, done: float, total: float) -> None:
        """Say how much of how much is done."""
        self.total = total
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

    def skip(self, work: float) -> None:
        """Take so much as done, and as nothing that says how fast the rest will be."""
        self._skipped += work
        self._seen = deque((at, done + work) for at, done in self._seen)
        self.advance(work)

    def advance(self, work: float) -> None:
        """Take so much as done."""
        self.done += work
        now = time.monotonic()
        if now - self._seen[-1][0] >= 1:
            self._seen.append((now, self.done))
        while len(self._seen) > 1 and self._seen[1][0] <= now - RECENT:
            self._seen.popleft()
        self._progress.update(self._task, completed=self.done)
        if self._progress.disable and now - self._said > LINE_EVERY:
            self._said = now
            share = min(self.done / self.total, 1.0) if self.total else 1.0
            left = self.left()
            self.console.print(f"{self.what}: {share:.0%} of all{left and f', {left}'}", highlight=False)

    def left(self) -> str:
        """The time left at the recent pace, as a person says it; nothing where that would mean nothing yet."""
        since, before = self._seen[0]
        now, done, rest = time.monotonic(), self.done - self._skipped, self.total - self.done
        sure = now - self._began >= SURE_SECONDS or done >= LEAST_SHARE * (done + rest)
        if now - self._began < LEAST_SECONDS or not sure or rest <= 0 or self.done <= before:
            return ""
        return f"{duration(rest * (now - since) / (self.done - before))} left"

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._progress.disable:  # rich would print an empty line
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


class _Left(ProgressColumn):
    """The time left, as the bar says it."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        return Text(self.bar.left())
