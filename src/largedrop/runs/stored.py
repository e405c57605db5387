"""One stored run as it is read: its records, or the reason why it is unusable."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config import PROTOCOL, Config
from ..errors import UserError
from ..files import is_leftover, parse_json
from .interpolation import Interpolation
from .protocol import UnusableError, read_config, records_of
from .record import Record
from .run import Run

__all__ = ["UNUSABLE_KINDS", "Stored", "Unusable", "read_stored"]

UNUSABLE_KINDS = ("unfinished", "half-written", "damaged", "newer version", "older protocol", "edited by hand", "copy")
"""Kinds of unusable runs."""


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


def read_stored(
    path: Path, name: str, contents: Mapping[str, bytes | OSError], shared: dict[str, dict[str, Any]]
) -> Stored:
    """The run in a folder, without its interpolation.

    Args:
        name: name of the run in messages.
        contents: contents of config.json and result.json, or the errors of reading them, where the files exist.
        shared: settings by their JSON, so that thousands of runs share few objects.

    Raises:
        UnusableError: the run is unusable.
    """
    parsed = {file: _parsed(file, content) for file, content in contents.items()}
    if "config.json" not in parsed:
        if "result.json" in parsed:
            raise UnusableError("damaged", "there is a result.json but no config.json")
        raise UnusableError("half-written", "its config.json was never finished")
    if "result.json" not in parsed:
        if any(is_leftover(entry) for entry in path.glob(".result.json.*")):
            raise UnusableError("half-written", "it ended while result.json was being written; run it again")
        _, protocol = read_config(parsed["config.json"], path.resolve().name)
        if protocol != PROTOCOL:
            raise UnusableError(
                "unfinished", f"there is no result.json, and runs of protocol {protocol} are not resumed"
            )
        raise UnusableError("unfinished", "there is no result.json yet; run it again to resume it")
    result = parsed["result.json"]
    theirs = result.get("largedrop")
    if isinstance(theirs, str) and _numbers(theirs) > _numbers(__version__):
        raise UnusableError("newer version", f"written by largedrop {theirs}, and this is {__version__}; update it")
    config, protocol = read_config(parsed["config.json"], path.resolve().name)
    _check(config, result)
    settings = config.settings  # including fields that are newer than the run
    settings = shared.setdefault(json.dumps(settings, sort_keys=True), settings)
    records = tuple(records_of(config, result, protocol, settings))
    run = Run(path, config, result, protocol)
    return Stored(name, config, records, run.dataset, protocol, run.beats_start, run.hands_over_start)


def _parsed(file: str, content: bytes | OSError) -> dict[str, Any]:
    if isinstance(content, OSError):
        raise UnusableError("damaged", f"{file} cannot be read: {content.strerror or content}")
    try:
        return parse_json(content, file)
    except UserError as error:
        if error.__cause__ is not None and not content.rstrip().endswith(b"}"):  # not JSON
            raise UnusableError("half-written", f"{file} ends in the middle, after {len(content)} bytes") from error
        raise UnusableError("damaged", str(error)) from error


def _check(config: Config, result: dict[str, Any]) -> None:
    """Check that ``result`` was not edited: its fine-tuning has the accuracies of its log at the best step."""
    methods, log = result.get("methods"), result.get("log")
    tuned = methods.get("fine-tuning") if isinstance(methods, dict) else None
    if not isinstance(tuned, dict) or not isinstance(log, list):
        return
    line = next((each for each in log if isinstance(each, dict) and each.get("step") == result.get("best_step")), None)
    if line is None:
        raise UnusableError(
            "damaged", f"result.json has no line in its log for its best step ({result.get('best_step')})"
        )
    for name in ("iid_accuracy", "ood_accuracy"):
        if tuned.get(name) != line.get(name):
            told = f"{tuned.get(name)}, and its log at step {line['step']} {line.get(name)}"
            raise UnusableError("edited by hand", f"its fine-tuning has {name} {told}")
    if tuned.get("steps") != config.steps:
        told = f"{tuned.get('steps')} steps, and its config of {config.steps}"
        raise UnusableError("edited by hand", f"its result is of {told}")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: ``0.10.2rc1`` → (0, 10, 2); a name has none."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
