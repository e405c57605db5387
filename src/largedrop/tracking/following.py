"""A reporter that tells trackers of runs: what is in the runs' files, and not yet in the tracker."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import digest_of
from ..errors import UserError, check_type, one_of, visible
from ..files import read_json
from ..reporter import Relay, Reporter
from ..runs.content import is_finished
from .base import RESULT, Tracked, Tracker

__all__ = ["TRACKERS", "Opens", "followed", "trackers_of"]

TRACKERS = {"mlflow": "MLflow", "tensorboard": "TensorBoard", "trackio": "Trackio", "wandb": "WandB"}
"""The class of each tracker; its module and its extra have its name."""

Opens = Callable[[Tracked], Tracker]
"""Opens a run in a tracker: a class, or a function."""

PATIENCE = 60.0
"""Seconds after which a tracker that does not answer is left alone, at the end of the training."""

MOST_TOLD = 200
"""Characters of a tracker's error."""


def trackers_of(track: str | Opens | Sequence[str | Opens]) -> dict[str, Opens]:
    """The trackers by name: those of ``TRACKERS``, or of other classes.

    Raises:
        UserError: a name is unknown, or named twice.
    """
    found: dict[str, Opens] = {}
    what = "track must be the name of a tracker, a class or function that opens a run, or several"
    if not isinstance(track, str) and not callable(track):
        check_type(track, Iterable, what)
    for each in [track] if isinstance(track, str) or callable(track) else track:
        if not callable(each):
            check_type(each, str, what)
        if isinstance(each, str) and each not in TRACKERS:
            raise UserError(f"unknown tracker '{each}'; {one_of(each, TRACKERS)}")
        name = each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__)
        if name in found:
            raise UserError(f"the tracker '{name}' is named twice")
        found[name] = _opens(each) if isinstance(each, str) else each
    return found


def _opens(name: str) -> Opens:
    def opened(run: Tracked) -> Tracker:
        try:
            made: Opens = getattr(import_module(f".{name}", __package__), TRACKERS[name])
        except ImportError as error:
            raise UserError(f"not installed: pip install 'largedrop[{name}]' ({error})") from error
        return made(run)

    return opened


@contextmanager
def followed(reporter: Reporter, trackers: Mapping[str, Opens]) -> Iterator[Reporter]:
    """A reporter that tells trackers of the runs as well, in a thread of its own; all of it is told at the end.

    What the trackers raise becomes a note to ``reporter``, and ends that tracker's work.
    """
    if not trackers:
        yield reporter
        return
    following = _Following(reporter, trackers)
    try:
        yield following
    finally:
        following.finish()


class _Following(Relay):
    """Has a thread read the files of runs and tell the trackers; notes are passed on by the thread that trains."""

    def __init__(self, to: Reporter, trackers: Mapping[str, Opens]) -> None:
        super().__init__(to)
        self.trackers = dict(trackers)
        self.open: dict[tuple[str, Path], Tracker] = {}
        self.told_all: set[tuple[str, Path]] = set()
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self.done = 0
        self.thread = threading.Thread(target=self._work, name="largedrop-tracking", daemon=True)
        self.thread.start()

    def logged(self, folder: Path) -> None:
        """Have the trackers told of what is new in the folder of a run."""
        super().logged(folder)
        self.waiting.put(folder)
        self._pass_on()

    def finish(self) -> None:
        """Wait until all is told, as long as something moves, and let go of every run."""
        self.waiting.put(None)
        while self.thread.is_alive():
            before = self.done
            self.thread.join(PATIENCE)
            if self.thread.is_alive() and self.done == before:
                named = " and ".join(self.trackers)
                self.told.put(f"tracking with {named} is given up, as there is no answer; {AGAIN}")
                break
        self._pass_on()

    def _pass_on(self) -> None:
        while not self.told.empty():
            self.to.note(self.told.get())

    def _work(self) -> None:
        while (folder := self.waiting.get()) is not None:
            for name in list(self.trackers):
                self._attempt(name, partial(self._tell, name, folder))
            self.done += 1
        for (name, _), tracker in list(self.open.items()):
            if name in self.trackers:
                self._attempt(name, tracker.close)
            self.done += 1

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a tracker raises, the training goes on
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            line = visible(" ".join(said.split()))
            short = line if len(line) <= MOST_TOLD else f"{line[: MOST_TOLD - 1]}…"
            self.told.put(f"tracking with {name} has ended ({short}); the training goes on, and {AGAIN}")
            self.trackers.pop(name)

    def _tell(self, name: str, folder: Path) -> None:
        """Tell a tracker of the lines of a run's log that it does not have, and of the result."""
        if (name, folder) in self.told_all:  # the thread was behind the training
            return
        tracker = self.open.get((name, folder))
        if tracker is None:
            tracker = self.open[name, folder] = self.trackers[name](tracked(folder))
        result = read_json(folder / "result.json") if is_finished(folder) else None
        for line in (result or read_json(folder / "log.json"))["log"]:
            if line["step"] > tracker.last:
                tracker.log(line["step"], numbers_of({key: line[key] for key in line if key != "step"}))
                tracker.last = line["step"]
        if result is not None:
            if not tracker.ended:
                tracker.end(tracker.last, numbers_of(result["methods"], RESULT))
                tracker.ended = True
            self.told_all.add((name, folder))
            self.open.pop((name, folder)).close()


AGAIN = "the same command sends what is missing"


def tracked(folder: Path) -> Tracked:
    """The run in a folder, as trackers know it."""
    config = read_json(folder / "config.json")
    protocol = config.pop("protocol")
    above = folder.absolute().parent
    group = above.parent if above.name == "runs" else above
    return Tracked(digest_of(config, protocol), folder.absolute().name, group.name, folder, config)


def numbers_of(content: Mapping[str, Any], start: str = "") -> dict[str, float]:
    """The finite numbers in nested JSON, named by their path; an entry of a list by its ``alpha``.

    >>> numbers_of({"lr": 0.1, "by_domain": {"art": 1}, "wise-ft": [{"alpha": 0.5, "seconds": 2}], "name": "x"})
    {'lr': 0.1, 'by_domain/art': 1.0, 'wise-ft/0.5/alpha': 0.5, 'wise-ft/0.5/seconds': 2.0}
    """
    found: dict[str, float] = {}
    for key, value in content.items():
        if isinstance(value, list):
            value = {f"{each['alpha']:g}": each for each in value}
        if isinstance(value, dict):
            found |= numbers_of(value, f"{start}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{start}{key}"] = float(value)
    return found
