"""All stored runs below a folder: the records of the finished ones, and the unusable ones with the reason."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from ..config import ABOUT, PROTOCOL, Config
from ..errors import UserError
from ..runtime import without_collector
from .across import ACROSS_FOLDER, Across, matched, read_across
from .content import FILES, contents_of, name_of
from .estimate import listing
from .interpolation import INTERPOLATION_FILE, Interpolation
from .methods import order
from .protocol import UnusableError
from .record import Record, shown
from .run import remarks
from .stored import Stored, Unusable, read_stored

__all__ = ["Runs", "read_runs"]

THREADS = 8
"""Number of threads that read files, to hide a network's latency; on a local disk it matters little."""

_BATCH, _PART = 256, 32
"""Numbers of runs whose files are in memory at once, and of those that a thread reads in one go."""

_MOST_NAMED = 12

_TOLD = 3

_scores = attrgetter("method", "iid_accuracy", "ood_accuracy")


class _Found(NamedTuple):
    """A run's folder: its path, that relative to the folder that is read, its own name, and its files' names."""

    path: Path
    name: str
    own: str
    files: frozenset[str]


@dataclass(frozen=True)
class Runs:
    """The stored runs below a folder.

    Attributes:
        folder: path of the folder that was read.
        runs: the finished runs, sorted by name; all of one dataset, split, class list and protocol.
        unusable: the unusable runs, sorted by name.
        stored_across: the stored results across trajectories, of any runs, by their files' stems.
    """

    folder: Path
    runs: tuple[Stored, ...]
    unusable: tuple[Unusable, ...]
    stored_across: Mapping[str, Across] = field(default_factory=dict)

    @cached_property
    def _across(self) -> tuple[tuple[Across, ...], tuple[str, ...]]:
        if not self.stored_across:
            return (), ()
        return matched(((Path(run.name).name, run.config) for run in self.runs), self.stored_across)

    @property
    def across(self) -> tuple[Across, ...]:
        """The results across trajectories whose members are a complete group of ``runs``."""
        return self._across[0]

    @property
    def not_across(self) -> tuple[str, ...]:
        """The groups of ``runs`` without a result across trajectories, in lines; empty where no group has one."""
        return self._across[1]

    @cached_property
    def records(self) -> list[Record]:
        """One record for each run and method, and for each result across trajectories of one seed."""
        own = [record for run in self.runs for record in run.records]
        return own + [result.record for result in self.across if result.seed is not None]

    @property
    def protocol(self) -> int:
        """The protocol of all runs."""
        return self.runs[0].protocol

    @property
    def notes(self) -> list[str]:
        """Sentences about the accuracies, for readers of a report."""
        notes = []
        if self.protocol != PROTOCOL:
            methods = {record.method for record in self.records}
            pooled = sorted(methods - {"fine-tuning"}, key=order)
            stored = [run.interpolation.pooled for run in self.runs if run.interpolation]
            if any(stored):
                pooled.append("the interpolations" if all(stored) else f"{sum(stored)} of {len(stored)} interpolations")
            said = [f"These runs are of protocol {self.protocol}."]
            if "fine-tuning" in methods:
                said.append(
                    "The i.i.d. accuracy of fine-tuning, by which its checkpoint is chosen, was recomputed from their "
                    "logs: it is the mean over the training domains."
                )
            if pooled:
                said.append(f"The i.i.d. accuracy of {listing(pooled)} is pooled over images, as it was stored.")
            notes.append(" ".join(said))
        return notes + remarks(self.runs)

    @property
    def dataset(self) -> dict[str, Any]:
        """Facts about the dataset from the runs: at least ``name`` and ``fingerprint``."""
        known = next((dict(run.dataset) for run in self.runs if run.dataset), {})
        first = self.runs[0].config
        return {"name": first.data, "fingerprint": first.fingerprint, **known}


@without_collector()
def read_runs(folder: str | Path, *, only: Collection[str] | None = None) -> Runs:
    """Read every finished run below ``folder``; only configs, results and interpolations are opened.

    A run is any folder with a config.json or result.json; folders whose names begin with a dot are not entered. A run
    is unusable, and listed with the reason, if it is unfinished, half-written, damaged, of a newer version or of a
    protocol before 2, edited by hand (its config's digest is not the one in its folder's name, or its result
    contradicts its log), or a copy of another. Links that lead out of ``folder`` are not followed, but listed as well.
    Results across trajectories are read from folders ``across`` below
    ``folder`` or, where it is a sweep's ``runs``, beside it.

    Args:
        only: names of the runs' own folders; others are ignored. None for all.

    Raises:
        UserError: no such folder; no usable run in it; runs of different datasets, class lists, splits or protocols; or
            two runs of one config with different results. The message names the runs of each side.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}" + (" (it is a file)" if folder.exists() else ""))
    except OSError as error:  # the name is too long
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    beside = folder.resolve().parent / ACROSS_FOLDER
    others = [beside] if folder.resolve().name == "runs" and beside.is_dir() else []
    shared: dict[tuple[Any, ...], dict[str, Any]] = {}
    found: list[Stored | Unusable] = []
    folders = list(_run_folders(folder, others, found))
    if only is not None:
        folders, found = [entry for entry in folders if entry.path.name in only], []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(folders), _BATCH):
            batch = folders[start : start + _BATCH]
            parts = [batch[at : at + _PART] for at in range(0, len(batch), _PART)]
            for each, contents in zip(batch, chain.from_iterable(pool.map(_contents, parts)), strict=True):
                found += _run(each, contents, shared)
    across, damaged = read_across(others)
    unusable = [entry for entry in found if isinstance(entry, Unusable)]
    runs, copies = _without_copies([entry for entry in found if isinstance(entry, Stored)])
    unusable += [*copies, *(Unusable(f"{ACROSS_FOLDER}/{name}", "damaged", reason) for name, reason in damaged.items())]
    unusable.sort(key=lambda entry: entry.name)
    if not runs:
        listed = _cut(list(map(str, unusable)), "runs")
        raise UserError("\n".join([f"no finished run in {folder}", *listed]))
    _refuse_mixed(runs)
    return Runs(folder, tuple(runs), tuple(unusable), across)


def _contents(folders: Iterable[_Found]) -> list[dict[str, bytes | OSError]]:
    return [contents_of(each.path, each.files) for each in folders]


def _run_folders(folder: Path, others: list[Path], unusable: list[Stored | Unusable]) -> Iterator[_Found]:
    """Every run's folder at or below ``folder``, in order.

    Appends folders of results across trajectories to ``others``, and what cannot be looked into to ``unusable``.
    """
    seen: set[tuple[int, int]] = set()
    root = folder.resolve()
    waiting = [(folder, root.name, name_of(folder))]
    while waiting:
        path, name, own = waiting.pop()
        try:
            about = path.stat()
            with os.scandir(path) as entries:
                inside = list(entries)
        except OSError as error:
            if path == folder:
                raise UserError(f"cannot read {path}: {error.strerror or error}") from error
            reason = f"the folder cannot be read: {error.strerror or error}"
            unusable.append(Unusable(name, "damaged", reason))
            continue
        if (about.st_dev, about.st_ino) in seen:  # reached by a link before
            continue
        seen.add((about.st_dev, about.st_ino))
        files = frozenset(entry.name for entry in inside)
        if not files.isdisjoint(FILES) or any(each.startswith(".config.json.") for each in files):
            yield _Found(path, name, own, files)
        else:
            if path.name == ACROSS_FOLDER:
                others.append(path)
            before = f"{name}/" if path != folder else ""
            for entry in sorted(inside, key=attrgetter("name"), reverse=True):
                if entry.name.startswith("."):
                    continue
                if reason := _why_not_followed(entry, root):
                    unusable.append(Unusable(before + entry.name, "link", reason))
                elif entry.is_dir():
                    there = path / entry.name
                    waiting.append((there, before + entry.name, name_of(there) if entry.is_symlink() else entry.name))


def _why_not_followed(entry: os.DirEntry[str], root: Path) -> str:
    """Why a link below ``root`` is not followed; empty where it leads to a file or a folder there, or is no link."""
    if not entry.is_symlink():
        return ""
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):  # a circle is the latter before Python 3.13
        return "it leads nowhere, or in a circle"
    return "" if target.is_relative_to(root) or not target.is_dir() else f"it leads out of {root}, and is not followed"


def _run(folder: _Found, contents: Mapping[str, bytes | OSError], shared: dict[Any, Any]) -> list[Stored | Unusable]:
    """The run in a folder with its interpolation, and an entry for each of the two that is unusable."""
    path, name, own, files = folder
    try:
        run = read_stored(path, name, own, contents, shared)
    except UnusableError as error:
        return [Unusable(name, error.kind, str(error))]
    if INTERPOLATION_FILE not in files:
        return [run]
    try:
        return [replace(run, interpolation=Interpolation.read(path / INTERPOLATION_FILE, run.digest))]
    except UserError as error:  # the run itself is usable
        reason = str(error).removeprefix(INTERPOLATION_FILE).lstrip(" :")
        return [run, Unusable(f"{name}/{INTERPOLATION_FILE}", "damaged", reason)]


def _without_copies(runs: list[Stored]) -> tuple[list[Stored], list[Unusable]]:
    """The runs, each config once, and the copies.

    Raises:
        UserError: two runs of one config have different results.
    """
    kept: dict[tuple[int, Config], Stored] = {}
    copies, contradicting = [], []
    for run in sorted(runs, key=lambda run: run.name):
        first = kept.setdefault((run.protocol, run.config), run)
        if first is run:
            continue
        if list(map(_scores, run.records)) == list(map(_scores, first.records)):
            copies.append(Unusable(run.name, "copy", f"the same run as {first.name}, which is used"))
        else:
            contradicting.append(f"{first.name} and {run.name}")
    if contradicting:
        raise UserError(
            "the same config has different results (from another device?); keep one of each: "
            + "; ".join(_cut(contradicting, "pairs"))
        )
    return list(kept.values()), copies


def _refuse_mixed(runs: Iterable[Stored]) -> None:
    """Raise UserError where ``runs`` cannot be in one report; the message lists the differences and their runs."""
    scored = [name for name, about in ABOUT.items() if about.scored]
    sides: dict[str, dict[str, list[str]]] = {what: {} for what in ("dataset", "class list", *scored, "protocol")}
    for run in runs:
        config = run.config
        values = {name: shown(getattr(config, name)) for name in scored}
        values |= {"dataset": f"{config.data} ({config.fingerprint[:12]})", "protocol": str(run.protocol)}
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
            lines.append(f"different {what}:")
            for value, names in found.items():
                short = value if len(value) <= 80 else f"{value[:79]}…"
                lines.append(f"  {short}: {', '.join(_cut(names, 'runs', _TOLD))}")
    if lines:
        raise UserError("\n".join(["these runs cannot be in one report; read each side by itself", *lines]))


def _cut(entries: list[str], what: str, most: int = _MOST_NAMED) -> list[str]:
    left = len(entries) - most
    return [*entries[:most], *([f"… and {left} more {what}"] if left > 0 else [])]
