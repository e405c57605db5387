"""What is in a run's folder: config.json and result.json, read and checked, wherever a run is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config import PROTOCOL, Config
from ..errors import UserError
from ..files import is_leftover, parse_json, read_bytes, there
from .protocol import UnusableError, read_config, records_of
from .record import Record, is_count, is_fraction

__all__ = ["FILES", "Content", "check_content", "contents_of", "is_finished", "name_of"]

FILES = ("config.json", "result.json")
"""A folder with one of these files is a run's."""


RUN = "run"
"""Field of result.json, and of the headers of a run's files: the digest of the config of their run."""


@dataclass(frozen=True)
class Content:
    """The checked content of a finished run's folder.

    Attributes:
        config: content of config.json.
        result: content of result.json.
        protocol: protocol of the training.
        records: one record for each method, and for each of its shares α.
    """

    config: Config
    result: dict[str, Any]
    protocol: int
    records: tuple[Record, ...]


def is_finished(folder: Path) -> bool:
    """Whether there is a result.json, of whatever kind: nothing is trained that could not be stored there.

    Raises:
        UserError: see ``there``.
    """
    return there(folder / "result.json")


def contents_of(folder: Path, names: frozenset[str] | None = None) -> dict[str, bytes | OSError]:
    """The bytes of each of ``FILES`` in a folder, or the error of reading it; without those that are not there.

    Args:
        names: names of what is in the folder; looked up where None.
    """
    contents: dict[str, bytes | OSError] = {}
    for name in FILES:
        if names is None or name in names:
            try:
                contents[name] = read_bytes(folder / name)
            except FileNotFoundError as error:
                if (folder / name).is_symlink():
                    contents[name] = error
            except OSError as error:
                contents[name] = error
    return contents


def name_of(folder: Path) -> str:
    """The name of a run's folder itself, also where the path is a link to it."""
    return folder.name if folder.name.strip(".") and not folder.is_symlink() else Path(os.path.realpath(folder)).name


def check_content(
    folder: Path,
    name: str,
    contents: Mapping[str, bytes | OSError],
    settings_of: Callable[[Config], dict[str, Any]] = lambda config: config.settings,
    log: bool = True,
) -> Content:
    """The content of a finished run.

    Args:
        name: the folder's own name, from ``name_of``.
        contents: contents of the files, from ``contents_of``.
        settings_of: function from the config to the settings in the records.
        log: whether the log is needed; else it is left out where the checksum says that the file is as it was written,
            and so as it was checked when the run ended.

    Raises:
        UnusableError: the run is unusable.
    """
    parsed = {file: _parsed(file, content, "" if log else "log") for file, content in contents.items()}
    if "config.json" not in parsed:
        if "result.json" in parsed:
            raise UnusableError("damaged", "there is a result.json but no config.json")
        raise UnusableError("half-written", "its config.json was never finished")
    if "result.json" not in parsed:
        if _is_half_written(folder):
            raise UnusableError("half-written", "it ended while result.json was being written; run it again")
        _, protocol, _ = read_config(parsed["config.json"], name)
        if protocol != PROTOCOL:
            raise UnusableError(
                "unfinished", f"there is no result.json, and runs of protocol {protocol} are not resumed"
            )
        raise UnusableError("unfinished", "there is no result.json yet; run it again to resume it")
    result = parsed["result.json"]
    theirs = result.get("largedrop")
    if isinstance(theirs, str) and _numbers(theirs) > _numbers(__version__):
        raise UnusableError("newer version", f"written by largedrop {theirs}, and this is {__version__}; update it")
    config, protocol, run = read_config(parsed["config.json"], name)
    if result.get(RUN, run) != run:
        raise UnusableError("damaged", f"result.json is of another run: of the config {result[RUN]}, not {run}")
    _check_result(config, result)
    # The settings include fields that are newer than the run.
    return Content(config, result, protocol, tuple(records_of(config, result, protocol, settings_of(config))))


def _is_half_written(folder: Path) -> bool:
    with suppress(OSError):  # it was removed meanwhile
        return any(entry.name.startswith(".result.json.") and is_leftover(entry) for entry in folder.iterdir())
    return False


def _parsed(file: str, content: bytes | OSError, without: str) -> dict[str, Any]:
    if isinstance(content, OSError):
        raise UnusableError("damaged", f"{file} cannot be read: {content.strerror or content}")
    try:
        return parse_json(content, file, without)
    except UserError as error:
        if error.__cause__ is not None and not content.rstrip().endswith(b"}"):  # not JSON
            raise UnusableError("half-written", f"{file} ends in the middle, after {len(content)} bytes") from error
        raise UnusableError("damaged", str(error)) from error


def _check_result(config: Config, result: dict[str, Any]) -> None:
    """Check that a result is of this config and its values are possible, and that it was not edited: its fine-tuning
    has the accuracies of its log at the best step.
    """
    model, found = result.get("model", ""), result.get("model_scores", {"iid_accuracy": 0, "ood_accuracy": 0})
    if not isinstance(model, str) or not _is_name(model):
        raise UnusableError("damaged", f"result.json: 'model' must be the name of a file, not {model!r}")
    tested = bool(config.test_domains)
    if not (isinstance(found, dict) and {*SCORES} <= {*found} and _are_scores(found, tested)):
        raise UnusableError("damaged", f"result.json: 'model_scores' must have two fractions, not {found!r}")
    if wrong := _wrong_of_dataset(result.get("dataset", {})):
        raise UnusableError("damaged", f"result.json: the dataset's {wrong}")
    methods, log = result.get("methods"), result.get("log", [])
    if not isinstance(log, list) or not all(_is_line(line, tested) for line in log):
        raise UnusableError("damaged", "result.json: each line of its log must have a step and fractions as accuracies")
    tuned = methods.get("fine-tuning") if isinstance(methods, dict) else None
    if not isinstance(tuned, dict) or "log" not in result:
        return
    line = next((each for each in log if each["step"] == result.get("best_step")), None)
    if line is None:
        raise UnusableError(
            "damaged", f"result.json has no line in its log for its best step ({result.get('best_step')})"
        )
    for name in SCORES:
        if tuned.get(name) != line.get(name):
            told = f"{tuned.get(name)}, and its log at step {line['step']} {line.get(name)}"
            raise UnusableError("edited by hand", f"its fine-tuning has {name} {told}")
    if tuned.get("steps") != config.steps:
        told = f"{tuned.get('steps')} steps, and its config of {config.steps}"
        raise UnusableError("edited by hand", f"its result is of {told}")


def _wrong_of_dataset(facts: Any) -> str:
    """What is wrong with a result's facts about the dataset (``record.describe``); empty where nothing is."""
    if not isinstance(facts, dict):
        return f"facts must be an object, not {facts!r:.60}"
    for name in ("name", "fingerprint"):
        if not isinstance(facts.get(name, ""), str):
            return f"{name} must be text, not {facts[name]!r:.60}"
    for name in ("images", "skipped"):
        if not is_count(facts.get(name, 0)):
            return f"{name} must be a number of images, not {facts[name]!r:.60}"
    if not _are_names(facts.get("classes", [])):
        return f"classes must be a list of names, not {facts['classes']!r:.60}"
    for name, valid, told in (("domains", is_count, "numbers of images"), ("lacking", _are_names, "lists of classes")):
        found = facts.get(name, {})
        if not (isinstance(found, dict) and all(map(valid, found.values()))):
            return f"{name} must be {told} by domain, not {found!r:.60}"
    return ""


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


SCORES = ("iid_accuracy", "ood_accuracy")

BY_DOMAIN = frozenset(("iid_by_domain", "ood_by_domain", "ood_macro_by_domain"))

SHARES = ("_accuracy", "_accuracy_pooled")
"""Ends of the names of accuracies."""


def _are_scores(found: Mapping[str, Any], tested: bool) -> bool:
    """Whether the accuracies in a line of a log or the like are fractions; o.o.d. ones need a test domain."""
    for name, value in found.items():
        if name in BY_DOMAIN:
            if not isinstance(value, dict) or not all(map(is_fraction, value.values())):
                return False
        elif name.endswith(SHARES) and not is_fraction(value):
            untested = value is None and not tested and name.startswith("ood")
            if not untested:
                return False
    return True


def _is_line(line: Any, tested: bool) -> bool:
    """Whether a value can be a line of a log: a step, and accuracies that are fractions."""
    return isinstance(line, dict) and is_count(line.get("step")) and _are_scores(line, tested)


@lru_cache
def _is_name(model: str) -> bool:
    return Path(model).name == model


@lru_cache
def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: ``0.10.2rc1`` → (0, 10, 2); a name has none."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
