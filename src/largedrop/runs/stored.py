"""One stored run: what it reached, or why it cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config import Config
from ..errors import UserError
from ..files import is_leftover, parse_json
from .interpolation import Interpolation
from .protocol import UnusableError, read_config, records_of
from .record import Record

__all__ = ["KINDS", "Problem", "Stored", "read_stored"]


KINDS = ("unfinished", "half-written", "damaged", "newer version", "older protocol", "edited by hand", "copy")
"""What can be the matter with a run that is left out."""


@dataclass(frozen=True)
class Problem:
    """A run that is left out: its folder below the one that was read, one of ``KINDS``, and the reason in a line."""

    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}: {self.reason}"


@dataclass(frozen=True)
class Stored:
    """A finished run, without its log.

    Attributes:
        name: its folder below the one that was read.
        config: what it is a function of.
        records: one for each method; ``settings`` are the config's, with ``steps``.
        dataset: facts about the data where the run's result holds them (``describe``'s, under ``dataset``), else empty.
        protocol: by which it was trained.
        beats_start: see ``Run.beats_start``.
        interpolation: between the pretrained network and this one, where it was computed.
    """

    name: str
    config: Config
    records: tuple[Record, ...]
    dataset: Mapping[str, Any]
    protocol: int
    beats_start: bool
    interpolation: Interpolation | None = None


def read_stored(
    path: Path, name: str, contents: Mapping[str, bytes | OSError], shared: dict[str, dict[str, Any]]
) -> Stored:
    """The run in a folder, without its interpolation.

    Args:
        path: of the folder.
        name: what the run is called.
        contents: of its config.json and result.json, as far as they are there.
        shared: settings by their JSON: thousands of runs have few, and share them.

    Raises:
        UnusableError: it cannot be used.
    """
    parsed = {file: _parsed(file, content) for file, content in contents.items()}
    if "config.json" not in parsed:
        if "result.json" in parsed:
            raise UnusableError("damaged", "there is a result.json but no config.json")
        raise UnusableError("half-written", "its config.json was never finished")
    if "result.json" not in parsed:
        if any(is_leftover(entry) for entry in path.glob(".result.json.*")):
            raise UnusableError("half-written", "it ended while result.json was being written; run it again")
        raise UnusableError("unfinished", "there is no result.json yet; run it again to go on where it was")
    result = parsed["result.json"]
    theirs = result.get("largedrop")
    if isinstance(theirs, str) and _numbers(theirs) > _numbers(__version__):
        raise UnusableError("newer version", f"written by largedrop {theirs}, and this is {__version__}; update it")
    config, protocol = read_config(parsed["config.json"], path.resolve().name)
    _check(config, result)
    settings = config.settings  # with the fields that are newer than the run
    settings = shared.setdefault(json.dumps(settings, sort_keys=True), settings)
    records = tuple(records_of(config, result, protocol, settings))
    dataset = result.get("dataset", {})
    dataset = dataset if isinstance(dataset, dict) else {}
    return Stored(name, config, records, dataset, protocol, beats_start=result.get("best_step") != 0)


def _parsed(file: str, content: bytes | OSError) -> dict[str, Any]:
    if isinstance(content, OSError):
        raise UnusableError("damaged", f"{file} cannot be read: {content.strerror or content}")
    try:
        return parse_json(content, file)
    except UserError as error:
        if error.__cause__ is not None and not content.rstrip().endswith(b"}"):  # it is no JSON
            raise UnusableError("half-written", f"{file} ends in the middle, after {len(content)} bytes") from error
        raise UnusableError("damaged", str(error)) from error


def _check(config: Config, result: dict[str, Any]) -> None:
    """See that ``result`` is as the run left it: its fine-tuning is the line of its log at the best step."""
    methods, log = result.get("methods"), result.get("log")
    if not isinstance(methods, dict) or not methods:
        raise UnusableError("damaged", "result.json has no 'methods'")
    tuned = methods.get("fine-tuning")
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
    """The leading numbers of a version, to compare: ``0.10.2rc1`` → (0, 10, 2); a name has none and is never newer."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
