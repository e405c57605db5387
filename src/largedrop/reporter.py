"""What long work tells whoever waits for it, and how it is asked to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Interrupted

if TYPE_CHECKING:
    from .config import Config

__all__ = ["SILENT", "Relay", "Reporter"]


class Reporter:
    """Hears of progress and does nothing about it; a terminal, a pipe or a caller's function overrides what it needs.

    The unit of work is that of ``training.loop.cost``, evaluated images, unless a function says otherwise.
    """

    def advance(self, work: float) -> None:
        """Work that was done since the last call; less than 0 where some of it was lost."""

    def skip(self, work: float) -> None:
        """Work that was there already, and took no time."""
        self.advance(work)

    def begin(self, config: Config) -> None:
        """A run is about to be trained, or read where it is finished."""

    def note(self, text: str) -> None:
        """A line that a user should know of."""

    def failed(self, config: Config, reason: str) -> None:
        """A run has collapsed or failed, and what happened, in a line."""

    def stopped(self) -> bool:
        """Whether the user has asked to stop; asked often."""
        return False

    def raise_if_stopped(self, text: str) -> None:
        """Raise ``Interrupted`` with ``text`` where the user has asked to stop."""
        if self.stopped():
            raise Interrupted(text)


SILENT = Reporter()
"""Tells nobody, and never stops."""


class Relay(Reporter):
    """Passes all on to another reporter, and counts the work.

    Args:
        to: the other.
        scale: what a unit of this one's work is in the other's.
    """

    def __init__(self, to: Reporter, scale: float = 1.0) -> None:
        self.to, self.scale = to, scale
        self.done = 0.0

    def advance(self, work: float) -> None:
        """Pass it on, in the other's unit."""
        self.done += work
        self.to.advance(work * self.scale)

    def skip(self, work: float) -> None:
        """Pass it on, in the other's unit."""
        self.done += work
        self.to.skip(work * self.scale)

    def begin(self, config: Config) -> None:
        """Pass it on."""
        self.to.begin(config)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.to.note(text)

    def failed(self, config: Config, reason: str) -> None:
        """Pass it on."""
        self.to.failed(config, reason)

    def stopped(self) -> bool:
        """As the other says."""
        return self.to.stopped()
