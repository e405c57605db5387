"""Groups of runs that differ in tuned settings only, and the stored results of methods across their trajectories."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..config import TUNED, Config
from ..errors import UserError
from ..files import is_leftover, read_json
from ..paths import fitting
from .methods import METHODS
from .record import Record, shown

__all__ = ["ACROSS_FOLDER", "Across", "RunGroup", "groups_of", "matched", "methods_across", "read_across"]

ACROSS_FOLDER = "across"
"""Name of the folder of the results."""

FORMAT = 1
"""Format of the results; to be raised when the same members would give other results."""

_HOW = "largedrop sweep computes them where its preset has afterwards = ['across']"

_tuned = attrgetter(*TUNED)

_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class RunGroup:
    """Runs with one test domain whose configs differ in ``TUNED`` only, of one seed or of every seed.

    Each seed holds out other images, on which runs of other seeds were trained: a group of every seed has no i.i.d.
    accuracy.

    Attributes:
        test_domain: name of the runs' test domain.
        seed: seed of the runs; None for a group of every seed.
        dropout: dropout rate of the runs.
        settings: (name, value) of the other fields that the configs share.
        names: names of the members, sorted by seed and tuned settings.
        missing: descriptions of runs that other seeds or test domains have and this group lacks.
    """

    test_domain: str
    seed: int | None
    dropout: float
    settings: tuple[tuple[str, Any], ...]
    names: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        seed = "every seed" if self.seed is None else f"seed {self.seed}"
        return f"dropout {self.dropout:g}, test domain {self.test_domain}, {seed}"

    def stem(self, method: str) -> str:
        """Name of the result's files, without suffix; a function of the method and all members."""
        return _stem(method, self.test_domain, self.dropout, self.seed, self.names)


@dataclass(frozen=True)
class Across:
    """The result of a method across the final checkpoints of a group of runs, its members.

    Attributes:
        method: name of the method, one of ``METHODS`` across trajectories.
        test_domain: name of the members' test domain.
        seed: seed of the members; None for members of every seed.
        dropout: dropout rate of the members.
        settings: the other settings that the members share.
        members: names of the members.
        scores: (i.i.d., o.o.d.) accuracy of each member's own final checkpoint, on its own split.
        iid_accuracy: accuracy on the held-out images, fraction; None for members of every seed.
        ood_accuracy: accuracy on the test domain, fraction.
        log: a greedy soup's decision on each member, with the fields of ``Tasting``; else empty.
        steps: number of optimiser steps of all members together.
        seconds: time of all members' training and of this method.
        iid_macro_accuracy: macro accuracy on the held-out images, fraction; None as for ``iid_accuracy``, and where an
            older version computed it.
        ood_macro_accuracy: macro accuracy on the test domain, fraction; None where an older version computed it.
    """

    method: str
    test_domain: str
    seed: int | None
    dropout: float
    settings: dict[str, Any]
    members: tuple[str, ...]
    scores: tuple[tuple[float, float], ...]
    iid_accuracy: float | None
    ood_accuracy: float
    log: tuple[Mapping[str, Any], ...]
    steps: int
    seconds: float
    iid_macro_accuracy: float | None = None
    ood_macro_accuracy: float | None = None

    @property
    def stem(self) -> str:
        """Name of the result's files, without suffix."""
        return _stem(self.method, self.test_domain, self.dropout, self.seed, self.members)

    @property
    def record(self) -> Record:
        """The record of a result of one seed.

        Raises:
            ValueError: the members are of every seed, so there is no i.i.d. accuracy.
        """
        if self.seed is None or self.iid_accuracy is None:
            raise ValueError("members of every seed have no i.i.d. accuracy")
        return Record(**{entry.name: getattr(self, entry.name) for entry in fields(Record)})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; ``from_json`` reads them back."""
        own = {name: value for name, value in vars(self).items() if name != "scores"}
        members = [
            {"run": name, "iid_accuracy": iid, "ood_accuracy": ood}
            for name, (iid, ood) in zip(self.members, self.scores, strict=True)
        ]
        return {"format": FORMAT, **own, "members": members, "log": [dict(entry) for entry in self.log]}

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> Across:
        """Check ``content`` and make a result of it.

        Raises:
            UserError: the file is of a newer version, or a value is missing, out of range or contradictory.
        """
        if isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise UserError(f"{where}: written by a newer largedrop (format {content['format']}, this reads {FORMAT})")
        every = content.get("seed") is None
        try:
            if content["method"] not in METHODS or not METHODS[content["method"]].across:
                raise UserError(f"{where}: '{content['method']}' is not a method across trajectories")
            if every != (content["iid_accuracy"] is None):
                raise UserError(f"{where}: 'iid_accuracy' must be null for members of every seed, and for those alone")
            names = [entry.name for entry in fields(Record)]
            known = {name: content[name] for name in names if name in content or "macro" not in name}
            record = Record.from_json(known | ({"seed": 0, "iid_accuracy": 0.0} if every else {}), where)
            members = content["members"]
            return cls(
                **(vars(record) | ({"seed": None, "iid_accuracy": None} if every else {})),
                members=tuple(str(each["run"]) for each in members),
                scores=tuple((float(each["iid_accuracy"]), float(each["ood_accuracy"])) for each in members),
                log=tuple(dict(entry) for entry in content["log"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            told = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: {told}") from error

    @classmethod
    def read(cls, path: Path) -> Across:
        """Read a stored result.

        Raises:
            UserError: the file cannot be read, is damaged, or has another name than its members give it.
        """
        found = cls.from_json(read_json(path, path.name), path.name)
        if found.stem != path.stem:
            raise UserError(f"{path.name}: its members make it {found.stem}; it was edited or renamed")
        return found


def groups_of(runs: Iterable[tuple[str, Config]]) -> list[RunGroup]:
    """The groups among ``runs``, of each seed, and of every seed where there are several.

    A group is complete if it has every learning rate and weight decay that any seed and test domain of the same
    settings has. Runs with another fit than ``all`` have no checkpoints, and are ignored, as are those that are not of
    one test domain.

    Returns:
        Groups with several settings, also incomplete ones, sorted by settings, test domain and seed; every seed last.
    """
    families: dict[Any, list[tuple[str, Config]]] = {}
    for name, config in runs:
        if config.fit == "all" and len(config.test_domains) == 1:
            families.setdefault(config.family_key, []).append((name, config))
    return [group for family in families.values() for group in _groups(family)]


def read_across(folders: Iterable[Path]) -> tuple[dict[str, Across], dict[str, str]]:
    """The results in folders, by stem; and the reasons why files are unusable, by file name."""
    found: dict[str, Across] = {}
    damaged: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            if not is_leftover(path):
                try:
                    found[path.stem] = Across.read(path)
                except UserError as error:
                    damaged[path.name] = str(error).removeprefix(path.name).lstrip(" :,")
    return found, damaged


def methods_across(group: RunGroup) -> tuple[str, ...]:
    """The methods across trajectories for a group; greedy soups need an i.i.d. accuracy, so one seed."""
    across = [name for name, method in METHODS.items() if method.across]
    return tuple(name for name in across if group.seed is not None or name != "greedy-soup")


def matched(
    runs: Iterable[tuple[str, Config]], stored: Mapping[str, Across]
) -> tuple[tuple[Across, ...], tuple[str, ...]]:
    """The stored results whose members are a complete group among ``runs``, and lines about results that are missing.

    Their settings are those of the runs as this version reads them; results of the same settings share one object.

    Args:
        stored: stored results, by stem.
    """
    groups = groups_of(runs)
    values: dict[str, set[Any]] = {}
    for group in groups:
        for name, value in group.settings:
            values.setdefault(name, set()).add(value)
    found: list[Across] = []
    shared: dict[Any, dict[str, Any]] = {}
    there: dict[str, dict[str, list[bool]]] = {}
    lacking: list[str] = []
    for group in groups:
        varied = [f"{name} {shown(value)}" for name, value in group.settings if len(values[name]) > 1]
        if group.missing:
            more = f" and {len(group.missing) - 1} more" if len(group.missing) > 1 else ""
            lacking.append(f"{', '.join([str(group), *varied])}: no run with {group.missing[0]}{more}")
            continue
        family = ", ".join([f"dropout {group.dropout:g}", *varied])
        for method in methods_across(group):
            result = stored.get(group.stem(method))
            there.setdefault(family, {}).setdefault(method, []).append(result is not None)
            if result is not None:
                settings = shared.setdefault(group.settings, dict(group.settings))
                found.append(replace(result, settings=settings))
    lines = []
    for family, known in there.items():
        told = [f"{name} ({each.count(False)} of {len(each)} groups)" for name, each in known.items() if not all(each)]
        if told:
            lines.append(f"{family}: {', '.join(told)}; {_HOW}")
    return tuple(found), (*lines, *lacking)


def _groups(family: list[tuple[str, Config]]) -> list[RunGroup]:
    """The groups of runs that differ in test domain, seed and what is tuned alone."""
    grid = sorted({_tuned(config) for _, config in family})
    if len(grid) < 2:
        return []
    varied = {name: index for index, name in enumerate(TUNED) if len({values[index] for values in grid}) > 1}
    first = family[0][1]
    settings = tuple((name, value) for name, value in first.settings.items() if name not in varied)
    at: dict[tuple[str, int], dict[Any, str]] = {}
    for name, config in family:
        at.setdefault((config.test_domain, config.seed), {}).setdefault(_tuned(config), name)
    domains = list(dict.fromkeys(domain for domain, _ in at))
    seeds = sorted({seed for _, seed in at})

    def group(domain: str, own: list[int], seed: int | None) -> RunGroup:
        names = tuple(name for each in own for _, name in sorted(at.get((domain, each), {}).items()))
        missing = tuple(
            ", ".join([*(f"{name} {shown(values[index])}" for name, index in varied.items()), f"seed {each}"])
            for each in own
            for values in grid
            if values not in at.get((domain, each), {})
        )
        return RunGroup(domain, seed, first.dropout, settings, names, missing)

    made = [group(domain, [seed], seed) for domain in domains for seed in seeds]
    if len(seeds) > 1:
        made += [group(domain, seeds, None) for domain in domains]
    return [each for each in made if each.names]


def _stem(method: str, test_domain: str, dropout: float, seed: int | None, names: Iterable[str]) -> str:
    content = json.dumps([FORMAT, method, sorted(names)])
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    tail = f"-d{dropout:g}-s{'all' if seed is None else seed}-{digest}"
    suffix = ".safetensors"  # the longest
    return fitting(f"{method}-{_UNSAFE.sub('_', test_domain)}", tail + suffix).removesuffix(suffix)
