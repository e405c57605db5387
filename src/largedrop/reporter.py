"""The reporter: receives the progress of long work, and can ask it to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Interrupted

if TYPE_CHECKING:
    from pathlib import Path

    from .config import Config

__all__ = ["SILENT", "Relay", "Reporter"]


class Reporter:
    """A reporter that ignores everything; subclasses for a terminal, a pipe or a callback override methods.

    The unit of work is the evaluated image, as in ``training.loop.cost``, unless a function says otherwise.
    """

    def advance(self, work: float) -> None:
        """``work`` was done since the last call; negative where work was lost."""

    def skip(self, work: float) -> None:
        """``work`` had been done before, and took no time."""
        self.advance(work)

    def begin(self, config: Config) -> None:
        """The run of ``config`` is about to be trained, or read where it is finished."""

    def logged(self, folder: Path) -> None:
        """The run in ``folder`` has a new line in its log, or a result, or is about to go on."""

    def note(self, text: str) -> None:
        """``text`` is a line for the user."""

    def failed(self, config: Config, reason: str) -> None:
        """The run of ``config`` has collapsed or failed; ``reason`` is one line."""

    def stopped(self) -> bool:
        """Whether the user has asked to stop; called often."""
        return False

    def raise_if_stopped(self, text: str) -> None:
        """Raise ``Interrupted`` with ``text`` where the user has asked to stop."""
        if self.stopped():
            raise Interrupted(text)


SILENT = Reporter()
"""Ignores everything, and never asks to stop."""


class Relay(Reporter):
    """Passes every call on to another reporter, and counts the work.

    Args:
        scale: factor from this reporter's unit of work to that of ``to``.
    """

    def __init__(self, to: Reporter, scale: float = 1.0) -> None:
        self.to, self.scale = to, scale
        self.done = 0.0

    def advance(self, work: float) -> None:
        """Pass ``work`` on, in the unit of ``to``."""
        self.done += work
        self.to.advance(work * self.scale)

    def skip(self, work: float) -> None:
        """Pass ``work`` on, in the unit of ``to``."""
        self.done += work
        self.to.skip(work * self.scale)

    def begin(self, config: Config) -> None:
        """Pass the call on."""
        self.to.begin(config)

    def logged(self, folder: Path) -> None:
        """Pass the call on."""
        self.to.logged(folder)

    def note(self, text: str) -> None:
        """Pass the call on."""
        self.to.note(text)

    def failed(self, config: Config, reason: str) -> None:
        """Pass the call on."""
        self.to.failed(config, reason)

    def stopped(self) -> bool:
        """Whether ``to`` asks to stop."""
        return self.to.stopped()
