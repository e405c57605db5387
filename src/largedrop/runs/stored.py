"""One stored run as it is read: its records, or the reason why it is unusable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, digest_of
from .content import check_content
from .interpolation import Interpolation
from .record import Record
from .run import Run

__all__ = ["UNUSABLE_KINDS", "Stored", "Unusable", "read_stored"]

UNUSABLE_KINDS = (
    "unfinished",
    "half-written",
    "damaged",
    "newer version",
    "older protocol",
    "edited by hand",
    "copy",
    "link",
)
"""Kinds of unusable runs; ``link`` is one that is not followed."""


@dataclass(frozen=True)
class Unusable:
    """An unusable run: its folder relative to the one that was read, its kind, and the reason in one line."""

    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}: {self.reason}"


@dataclass(frozen=True)
class Stored:
    """A finished run, without its log.

    Attributes:
        name: path of the run's folder, relative to the one that was read.
        config: config of the run.
        records: one record for each method.
        dataset: facts about the data from the result (see ``record.describe``); empty where it has none.
        protocol: protocol of the training.
        beats_start: see ``Run.beats_start``.
        hands_over_start: see ``Run.hands_over_start``.
        interpolation: the run's interpolation; None where it was not computed.
    """

    name: str
    config: Config
    records: tuple[Record, ...]
    dataset: Mapping[str, Any]
    protocol: int
    beats_start: bool
    hands_over_start: bool
    interpolation: Interpolation | None = None

    @property
    def digest(self) -> str:
        """See ``Run.digest``."""
        return digest_of(self.config.to_json(), self.protocol)


def read_stored(
    path: Path,
    name: str,
    own: str,
    contents: Mapping[str, bytes | OSError],
    shared: dict[tuple[Any, ...], dict[str, Any]],
) -> Stored:
    """The run in a folder, without its interpolation.

    Args:
        name: name of the run in messages.
        own: the folder's own name, from ``content.name_of``.
        contents: contents of its files, from ``contents_of``.
        shared: settings by their values, so that thousands of runs share few objects.

    Raises:
        UnusableError: the run is unusable.
    """

    def settings_of(config: Config) -> dict[str, Any]:
        settings = config.settings
        return shared.setdefault(tuple(settings.values()), settings)

    found = check_content(path, own, contents, settings_of, log=False)
    run = Run(path, found.config, found.result, found.protocol)
    facts = (run.dataset, run.protocol, run.beats_start, run.hands_over_start)
    return Stored(name, run.config, found.records, *facts)
