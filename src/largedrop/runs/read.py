"""Thousands of stored runs, read at once: what each reached, and which of them cannot be used and why."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config import ABOUT, PROTOCOL, Config, digest_of
from ..errors import UserError
from ..files import is_leftover, parse_json
from .across import FOLDER as ACROSS
from .across import Across, matched, read_across
from .interpolation import FILE as INTERPOLATION
from .interpolation import Interpolation
from .record import Record, shown

__all__ = ["Problem", "Runs", "Stored", "read_runs"]


KINDS = ("unfinished", "half-written", "damaged", "newer version", "older protocol", "edited by hand", "copy")
"""What can be the matter with a run that is left out."""


THREADS = 8
"""Files are read in so many threads, which hides a network's latency; on a local disk it changes little."""


_BATCH = 256
"""Runs whose files are in memory at a time."""


_NAMED = re.compile(r"-d[0-9.e+-]+-s[0-9]+-([0-9a-f]{12})$")

_MOST_NAMED = 12

_TOLD = 3


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
        interpolation: between the pretrained network and this one, where it was computed.
    """

    name: str
    config: Config
    records: tuple[Record, ...]
    dataset: Mapping[str, Any]
    interpolation: Interpolation | None = None


@dataclass(frozen=True)
class Runs:
    """What ``read_runs`` found.

    Attributes:
        folder: that was read.
        runs: finished ones, by name; all of one dataset, split and class list.
        problems: those that are left out, by name.
        stored_across: results across trajectories that lie there, by their files' stems, of whatever runs.
    """

    folder: Path
    runs: tuple[Stored, ...]
    problems: tuple[Problem, ...]
    stored_across: Mapping[str, Across] = field(default_factory=dict)

    @cached_property
    def _across(self) -> tuple[tuple[Across, ...], tuple[str, ...]]:
        return matched(((Path(run.name).name, run.config) for run in self.runs), self.stored_across)

    @property
    def across(self) -> tuple[Across, ...]:
        """The results across trajectories whose members are a whole group among the runs."""
        return self._across[0]

    @property
    def not_across(self) -> tuple[str, ...]:
        """The groups of the runs for which there is no such result, in lines; none where there is none of any group."""
        return self._across[1] if self.stored_across else ()

    @cached_property
    def records(self) -> list[Record]:
        """One for each run and method, and for each seed's result across trajectories."""
        own = [record for run in self.runs for record in run.records]
        return own + [result.record for result in self.across if result.seed is not None]

    @property
    def dataset(self) -> dict[str, Any]:
        """What the runs say of their dataset: at least ``name`` and ``fingerprint``."""
        known = next((dict(run.dataset) for run in self.runs if run.dataset), {})
        first = self.runs[0].config
        return {"name": first.data, "fingerprint": first.fingerprint, **known}


def read_runs(folder: str | Path, *, only: Collection[str] | None = None) -> Runs:
    """Read every finished run below ``folder``; of each run only its config, result and interpolation are opened.

    A run is any folder that holds one of those files; folders whose names begin with a dot are not entered. A run is
    left out, and listed with the reason, where it is unfinished, half-written, damaged, of a newer version or an older
    protocol, edited by hand (its config no longer hashes to its folder's name, or its result contradicts its own
    log), or the same as another one. Results across trajectories are read where they lie in a folder ``across``, below
    ``folder`` or, where that is a sweep's ``runs``, beside it.

    Args:
        folder: that is read.
        only: names of the runs' own folders; others are passed over. None for all.

    Raises:
        UserError: no such folder; no usable run in it; runs of different datasets, class lists or splits; or two runs
            of one config with different results. The runs of each side are named.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}" + (" (it is a file)" if folder.exists() else ""))
    except OSError as error:  # too long a name
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    beside = folder.resolve().parent / ACROSS
    others = [beside] if folder.resolve().name == "runs" and beside.is_dir() else []
    places = [(path, names) for path, names in _places(folder, others) if only is None or path.name in only]
    shared: dict[str, dict[str, Any]] = {}
    found: list[Stored | Problem] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            contents = pool.map(_contents, (path for path, _ in batch))
            for (path, names), texts in zip(batch, contents, strict=True):
                run = _run(path, folder, names, texts, shared)
                found += _with_interpolation(run, path) if INTERPOLATION in names else [run]
    across, damaged = read_across(others)
    problems = [entry for entry in found if isinstance(entry, Problem)]
    runs, copies = _without_copies([entry for entry in found if isinstance(entry, Stored)])
    problems += [*copies, *(Problem(f"{ACROSS}/{name}", "damaged", reason) for name, reason in damaged.items())]
    problems.sort(key=lambda problem: problem.name)
    if not runs:
        listed = _cut([str(problem) for problem in problems], "runs")
        raise UserError("\n".join([f"no finished run in {folder}", *listed]))
    _refuse_mixed(runs)
    return Runs(folder, tuple(runs), tuple(problems), across)


def _places(folder: Path, others: list[Path]) -> Iterator[tuple[Path, frozenset[str]]]:
    """Every run's folder at or below ``folder``, in order, with the names of what lies in it.

    Folders of results across trajectories are added to ``others``.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            about = path.stat()
            with os.scandir(path) as entries:
                inside = list(entries)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if (about.st_dev, about.st_ino) in seen:  # a link back
            continue
        seen.add((about.st_dev, about.st_ino))
        names = frozenset(entry.name for entry in inside)
        if names & {"config.json", "result.json"} or any(name.startswith(".config.json.") for name in names):
            yield path, names
        else:
            if path.name == ACROSS:
                others.append(path)
            below = [path / entry.name for entry in inside if entry.is_dir() and not entry.name.startswith(".")]
            waiting += sorted(below, reverse=True)


def _contents(path: Path) -> dict[str, bytes | OSError]:
    contents: dict[str, bytes | OSError] = {}
    for name in ("config.json", "result.json"):
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            contents[name] = error
    return contents


def _run(
    path: Path,
    root: Path,
    names: frozenset[str],
    contents: Mapping[str, bytes | OSError],
    shared: dict[str, dict[str, Any]],
) -> Stored | Problem:
    """The run in ``path``, or what is the matter with it."""
    folder = path.name if path != root else path.resolve().name
    name = path.relative_to(root).as_posix() if path != root else folder
    parsed: dict[str, dict[str, Any]] = {}
    for file, content in contents.items():
        if file not in names:
            continue
        read = _parsed(file, content)
        if isinstance(read, tuple):
            return Problem(name, *read)
        parsed[file] = read
    if "config.json" not in parsed:
        if "result.json" in parsed:
            return Problem(name, "damaged", "there is a result.json but no config.json")
        return Problem(name, "half-written", "its config.json was never finished")
    stored = parsed["config.json"]
    if "result.json" not in parsed:
        cut = any(entry.startswith(".result.json.") and is_leftover(path / entry) for entry in names)
        if cut:
            return Problem(name, "half-written", "it ended while result.json was being written; run it again")
        return Problem(name, "unfinished", "there is no result.json yet; run it again to go on where it was")
    result = parsed["result.json"]
    theirs = result.get("largedrop")
    if isinstance(theirs, str) and _numbers(theirs) > _numbers(__version__):
        return Problem(name, "newer version", f"written by largedrop {theirs}, and this is {__version__}; update it")
    config = _config(stored, folder)
    if isinstance(config, tuple):
        return Problem(name, *config)
    wrong = _contradiction(config, result)
    if wrong:
        return Problem(name, *wrong)
    settings = config.settings  # with the fields that are newer than the run
    settings = shared.setdefault(json.dumps(settings, sort_keys=True), settings)  # thousands of runs, few settings
    records = _records(config, result, settings)
    if isinstance(records, str):
        return Problem(name, "damaged", records)
    dataset = result.get("dataset", {})
    return Stored(name, config, records, dataset if isinstance(dataset, dict) else {})


def _with_interpolation(run: Stored | Problem, path: Path) -> list[Stored | Problem]:
    """The run with the interpolation that lies in its folder; a damaged one is left out, not the run."""
    if isinstance(run, Problem):
        return [run]
    try:
        return [replace(run, interpolation=Interpolation.read(path / INTERPOLATION))]
    except UserError as error:
        return [
            run,
            Problem(f"{run.name}/{INTERPOLATION}", "damaged", str(error).removeprefix(INTERPOLATION).lstrip(" :")),
        ]


def _parsed(file: str, content: bytes | OSError) -> dict[str, Any] | tuple[str, str]:
    if isinstance(content, OSError):
        return "damaged", f"{file} cannot be read: {content.strerror or content}"
    try:
        return parse_json(content, file)
    except UserError as error:
        if error.__cause__ is not None and not content.rstrip().endswith(b"}"):  # it is no JSON
            return "half-written", f"{file} ends in the middle, after {len(content)} bytes"
        return "damaged", str(error)


def _config(stored: dict[str, Any], folder: str) -> Config | tuple[str, str]:
    """The config, or (kind, reason) of why it cannot be trusted."""
    named = _NAMED.search(folder)
    digest = named[1] if named else None
    # An older version may have known fewer fields, so it is the stored fields that made the name.
    protocol = next((number for number in range(PROTOCOL, -1, -1) if digest_of(stored, number) == digest), None)
    unknown = sorted(set(stored) - set(ABOUT))
    if unknown and protocol is not None:
        return "newer version", f"its config has '{unknown[0]}', which largedrop {__version__} does not know; update it"
    try:
        config = Config.from_json(stored)
    except (UserError, TypeError) as error:
        kind = "edited by hand" if digest and protocol is None else "damaged"
        return kind, f"config.json: {error}"
    if digest and protocol is None and config.digest() != digest:
        return "edited by hand", f"its config hashes to {config.digest()}, not to the {digest} of its folder's name"
    if protocol is not None and protocol < PROTOCOL:
        return "older protocol", f"of protocol {protocol}, and now the same config trains differently; run it again"
    return config


def _contradiction(config: Config, result: dict[str, Any]) -> tuple[str, str] | None:
    """What in ``result`` cannot be as the run left it: its fine-tuning is the line of its log at the best step."""
    methods, log = result.get("methods"), result.get("log")
    if not isinstance(methods, dict) or not methods:
        return "damaged", "result.json has no 'methods'"
    tuned = methods.get("fine-tuning")
    if not isinstance(tuned, dict) or not isinstance(log, list):
        return None
    line = next((each for each in log if isinstance(each, dict) and each.get("step") == result.get("best_step")), None)
    if line is None:
        return "damaged", f"result.json has no line in its log for its best step ({result.get('best_step')})"
    for name in ("iid_accuracy", "ood_accuracy"):
        if tuned.get(name) != line.get(name):
            return "edited by hand", (
                f"its fine-tuning has {name} {tuned.get(name)}, and its log at step {line['step']} {line.get(name)}"
            )
    if tuned.get("steps") != config.steps:
        return "edited by hand", f"its result is of {tuned.get('steps')} steps, and its config of {config.steps}"
    return None


def _records(config: Config, result: dict[str, Any], settings: dict[str, Any]) -> tuple[Record, ...] | str:
    records, wrong = [], []
    common = {"dropout": config.dropout, "test_domain": config.test_domain, "seed": config.seed}
    for method, found in result["methods"].items():
        content = {**found, **common, "method": method} if isinstance(found, dict) else found
        try:
            # Checked as any record is; the settings are the run's own object, shared.
            record = Record.from_json(content, f"result.json, {method}")
        except UserError as error:
            wrong.append(str(error))
            continue
        object.__setattr__(record, "settings", settings)
        object.__setattr__(record, "method", sys.intern(record.method))
        records.append(record)
    return "; ".join(wrong) if wrong else tuple(records)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare: ``0.10.2rc1`` → (0, 10, 2); a name has none and is never newer."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]


def _without_copies(runs: list[Stored]) -> tuple[list[Stored], list[Problem]]:
    """The runs, each config once.

    Raises:
        UserError: two runs of one config have different results.
    """
    kept: dict[Config, Stored] = {}
    copies, contradicting = [], []
    for run in sorted(runs, key=lambda run: run.name):
        first = kept.setdefault(run.config, run)
        if first is run:
            continue
        same = [(each.method, each.iid_accuracy, each.ood_accuracy) for each in run.records] == [
            (each.method, each.iid_accuracy, each.ood_accuracy) for each in first.records
        ]
        if same:
            copies.append(Problem(run.name, "copy", f"the same run as {first.name}, which is used"))
        else:
            contradicting.append(f"{first.name} and {run.name}")
    if contradicting:
        raise UserError(
            "the same config has different results (from another device?); keep one of each: "
            + "; ".join(_cut(contradicting, "pairs"))
        )
    return list(kept.values()), copies


def _refuse_mixed(runs: Iterable[Stored]) -> None:
    """Raise UserError where ``runs`` cannot stand in one report: all that differs, with the runs of each side."""
    scored = [name for name, about in ABOUT.items() if about.scored]
    sides: dict[str, dict[str, list[str]]] = {what: {} for what in ("dataset", "class list", *scored)}
    for run in runs:
        config = run.config
        values = {name: shown(getattr(config, name)) for name in scored}
        values["dataset"] = f"{config.data} ({config.fingerprint[:12]})"
        if "classes" in run.dataset:
            values["class list"] = ", ".join(map(str, run.dataset["classes"]))
        for what, value in values.items():
            sides[what].setdefault(value, []).append(run.name)
    # A copy of a dataset under another name is the same dataset.
    prints = {value.rpartition("(")[2] for value in sides["dataset"]}
    if len(prints) == 1:
        sides["dataset"] = {}
    lines = []
    for what, found in sides.items():
        if len(found) > 1:
            told = [
                f"  {value if len(value) <= 80 else value[:79] + '…'}: {', '.join(_cut(names, 'runs', _TOLD))}"
                for value, names in found.items()
            ]
            lines += [f"different {what}:", *told]
    if lines:
        raise UserError("\n".join(["these runs cannot stand in one report; read each side by itself", *lines]))


def _cut(entries: list[str], what: str, most: int = _MOST_NAMED) -> list[str]:
    left = len(entries) - most
    return [*entries[:most], *([f"… and {left} more {what}"] if left > 0 else [])]
