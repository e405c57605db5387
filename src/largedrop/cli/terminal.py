"""The reporter for the terminal: a bar with the time left, or a line every half minute without a terminal."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..config import Config
from ..data.classes import named, unlearnable
from ..errors import visible
from ..names import counted
from ..reporter import Reporter
from ..runs.estimate import duration
from .options import columns

if TYPE_CHECKING:
    import torch

    from ..data.dataset import Dataset

__all__ = ["ProgressBar", "open_images", "say", "say_classes", "say_names", "say_paths"]

LINE_EVERY = 30.0
"""Seconds between two lines without a terminal."""

MOST_NAMED = 8
"""Number of domains and of classes that are named before training."""

RECENT = 120.0
"""Seconds over which the pace is measured for the time left."""

LEAST_SECONDS, LEAST_SHARE, SURE_SECONDS = 10.0, 0.02, 300.0
"""A time left is printed after ``LEAST_SECONDS`` and ``LEAST_SHARE`` of the work, or after ``SURE_SECONDS``."""


_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class ProgressBar(Reporter):
    """The progress of one piece of work, on a terminal or in lines; a context manager.

    Args:
        console: console to draw on.
        total: total work, in any unit.
        what: name of the work.
        runs: largest number of runs.
        name: function from a config to the name of its run.
    """

    def __init__(
        self,
        console: Console,
        total: float,
        what: str,
        runs: int = 0,
        name: Callable[[Config], str] = lambda config: config.run_name,
    ) -> None:
        self.console, self.total, self.what = console, total, visible(what)
        self.runs, self.name = runs, name
        self.done = 0.0
        self._asked = threading.Event()
        self._noted: set[str] = set()
        self._numbers: dict[Config, int] = {}
        self._skipped = 0.0
        self._began = self._said = time.monotonic()
        self._seen = deque([(self._began, 0.0)])
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            _Left(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(self.what, total=total)

    def describe(self, what: str) -> None:
        """Set the name of the present work."""
        self.what = visible(what)
        self._progress.update(self._task, description=self.what)

    def set(self, done: float, total: float) -> None:
        """Set the work done and the total work."""
        self.total = total
        self._progress.update(self._task, total=total)
        self.advance(done - self.done)

    def begin(self, config: Config) -> None:
        """Show the run's name and number; a run that is begun again keeps its number."""
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
        """Add ``work`` to the work done, without effect on the pace."""
        self._skipped += work
        self._seen = deque((at, done + work) for at, done in self._seen)
        self.advance(work)

    def advance(self, work: float) -> None:
        """Add ``work`` to the work done."""
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
            say(self.console, f"{self.what}: {share:.0%} of all{left and f', {left}'}")

    def left(self) -> str:
        """The time left at the recent pace as text; empty while it is too uncertain."""
        since, before = self._seen[0]
        now, done, rest = time.monotonic(), self.done - self._skipped, self.total - self.done
        sure = now - self._began >= SURE_SECONDS or done >= LEAST_SHARE * (done + rest)
        if now - self._began < LEAST_SECONDS or not sure or rest <= 0 or self.done <= before:
            return ""
        return f"{duration(rest * (now - since) / (self.done - before))} left"

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._progress.disable:  # rich would print an empty line
            self._progress.stop()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turn the first Ctrl-C, SIGTERM or SIGHUP into ``stopped``, so that a run can save its state first.

        What is ignored stays so: ``nohup`` has a command go on when its terminal is gone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self._asked.is_set():
                raise KeyboardInterrupt
            self._asked.set()
            if number != getattr(signal, "SIGHUP", None):  # which says that there is no terminal any more
                print("\nlargedrop: stopping after this step, to save it (Ctrl-C again stops at once)", file=sys.stderr)

        heeded = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, ask) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def say(console: Console, *lines: str) -> None:
    """Print lines without mark-up or wrapping, each as one line."""
    for line in lines:
        console.print(visible(line), highlight=False, markup=False, soft_wrap=True)


def open_images(
    console: Console,
    source: str,
    sizes: Iterable[int],
    column: Iterable[str] | None = None,
    **options: Any,
) -> Dataset:
    """The dataset ``source``, for inputs of these sizes; prints its notes and the number of skipped images.

    Args:
        column: texts of ``--column``.
        options: further ones, of ``open_dataset``.
    """
    from ..data import open_dataset
    from ..data.images import bound_for

    with ProgressBar(console, 1, f"opening {source}") as bar:
        options = {"progress": bar.set, "note": bar.note, **options}
        data = open_dataset(source, bound=bound_for(sizes), columns=columns(column or ()), **options)
    if data.skipped:
        say(console, f"skipped {counted(len(data.skipped), 'image')} that cannot be decoded")
    say(console, *data.notes)
    return data


def say_classes(console: Console, data: Dataset, configs: Iterable[Config]) -> None:
    """Say of which test domains there are classes that cannot be predicted, and that their images count as wrong."""
    for unseen, tested in dict.fromkeys((config.unseen, config.test_domains) for config in configs):
        for test_domain in tested:
            if alone := unlearnable(data.lacking, data.domains, test_domain, *unseen):
                images = [data.classes[label] for label in data.labels[data.indices(test_domain)]]
                count = sum(map(images.count, alone))
                say(
                    console,
                    f"tested on '{test_domain}', {named(alone)} cannot be predicted, as no domain trained on has it: "
                    f"{count} of {len(images)} test images count as wrong",
                )


def say_names(console: Console, data: Dataset) -> None:
    """Say which domains and classes there are, with their numbers of images, so that wrong ones are seen in time."""
    for what, names, of_images in (
        ("domains", data.domains, data.domain_ids),
        ("classes", data.classes, data.labels),
    ):
        counts = np.bincount(of_images, minlength=len(names)).tolist()
        listed = [f"'{_short(name)}' {count}" for name, count in zip(names, counts, strict=True)][:MOST_NAMED]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        say(console, f"  {what}: {', '.join(listed)}{more}")


def say_paths(console: Console, device: torch.device, data: Dataset, configs: Iterable[Config]) -> None:
    """Say which fast paths runs take on a device, where that may be news; a line for each kind of step that differs."""
    from ..fast_paths import chosen_paths
    from ..training.batches import step_pixels

    kinds = {(len(config.unseen), config.batch, config.size): config for config in configs}
    pixels = {step_pixels(config, config.split_of(data)) for config in kinds.values()}
    say(console, *dict.fromkeys(filter(None, (chosen_paths(device, each).why for each in sorted(pixels)))))


def _short(name: str, most: int = 40) -> str:
    name = visible(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


class _Left(ProgressColumn):
    """The time left as a column of rich's progress bar."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        return Text(self.bar.left())
