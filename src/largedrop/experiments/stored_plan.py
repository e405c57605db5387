"""The plan of a sweep on disk: what ``--status`` needs of it, so that neither data nor network is opened for that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, remove_leftovers, write_stored
from ..paths import MOST_BYTES

__all__ = ["PLANS", "StoredPlan", "StoredRun", "read_plans", "store_plan"]

PLANS = "plans"
"""Folder of the plans in the folder of a dataset's sweeps."""

MOST_SECONDS = 1e12
"""No run takes longer: thirty thousand years."""

_TYPES = {"names": str, "said": str, "steps": int, "kinds": int, "seconds": float}
"""Fields of the runs in the file, each a list over the runs, and the types of their values."""


@dataclass(frozen=True)
class StoredRun:
    """A run of a plan.

    Attributes:
        name: name of its folder.
        said: its settings that others of the plan differ in, for people.
        steps: number of its steps.
        kind: number of those that take as long for each unit of work.
        seconds: how long it was expected to take.
    """

    name: str
    said: str
    steps: int
    kind: int
    seconds: float


@dataclass(frozen=True)
class StoredPlan:
    """A plan: the preset's name and title, its scale, and its runs in their order."""

    preset: str
    title: str
    scale: str
    runs: tuple[StoredRun, ...]


def store_plan(folder: Path, stem: str, about: Mapping[str, str], runs: Sequence[StoredRun]) -> None:
    """Write a plan into the folder of sweeps, and remove what killed processes left there.

    Args:
        stem: name of the file, without suffix.
        about: ``preset``, ``title`` and ``scale``.

    Raises:
        UserError: the file cannot be written.
    """
    for each in (folder, folder / PLANS):
        remove_leftovers(each)
    values = (
        [run.name for run in runs],
        [run.said for run in runs],
        [run.steps for run in runs],
        [run.kind for run in runs],
        [round(float(run.seconds), 3) for run in runs],
    )
    write_stored(folder / PLANS / f"{stem}.json", {**about, **dict(zip(_TYPES, values, strict=True))}, compact=True)


def read_plans(folder: Path) -> Iterator[StoredPlan | str]:
    """The plans in the folder of sweeps, or a line about each that cannot be read.

    Raises:
        UserError: there is none.
    """
    paths = sorted(path for path in folder.glob(f"{PLANS}/*.json") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"no sweep was begun in {folder}: there is no {PLANS}/*.json, which largedrop sweep writes")
    for path in paths:
        try:
            yield _plan(read_json(path), path)
        except UserError as error:
            yield f"{error}; remove it: the next largedrop sweep of its preset writes it again"


def _is_run(run: StoredRun) -> bool:
    """Whether a run can be one: its name that of a folder, and its numbers such as a plan has."""
    is_name = Path(run.name).name == run.name not in ("", "..") and "\0" not in run.name
    return is_name and len(os.fsencode(run.name)) <= MOST_BYTES and run.steps > 0 and 0 <= run.seconds < MOST_SECONDS


def _plan(content: Mapping[str, Any], path: Path) -> StoredPlan:
    about = [content.get(name) for name in ("preset", "title", "scale")]
    columns = [content.get(name) for name in _TYPES]
    if not all(isinstance(each, str) for each in about) or not all(
        isinstance(column, list) and all(type(value) is kind for value in column)
        for column, kind in zip(columns, _TYPES.values(), strict=True)
    ):
        raise UserError(f"{path} is no plan of a sweep")
    if len({len(column or []) for column in columns}) > 1:
        raise UserError(f"{path} is no plan of a sweep")
    runs = tuple(StoredRun(*values) for values in zip(*(column or [] for column in columns), strict=True))
    if len({run.name for run in runs}) < len(runs) or not all(map(_is_run, runs)):
        raise UserError(f"{path} is no plan of a sweep")
    preset, title, scale = map(str, about)
    return StoredPlan(preset, title, scale, runs)
