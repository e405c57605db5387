"""Folders that belong to one thing, a run, a comparison or the sweeps of a dataset, and to one process at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ..config import LATER, PROTOCOL, Config
from ..errors import UserError
from ..files import is_leftover, read_json, write_json
from .protocol import refuse_older

__all__ = ["claim", "claimed", "owned"]


LOCK = ".lock"

MOST_NAMED = 4
"""Differences that a message names."""

NOTHING: Mapping[str, Any] = {}


@contextmanager
def claimed(folder: Path, config: Config) -> Iterator[None]:
    """While in it, ``folder`` is the one of the run of ``config``, and of no other process.

    What a killed process left half-written there is removed.

    Raises:
        UserError: as ``owned``, or it cannot be written, or another process is at work in it.
    """
    claim(folder, "config.json", "run", config.to_json())
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"another process is at work in {folder}") from None
    except OSError as error:
        raise UserError(f"cannot write {folder / LOCK}: {error.strerror or error}") from error
    try:
        for path in filter(is_leftover, [*folder.iterdir(), *folder.glob("outputs/.*")]):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def claim(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> None:
    """Make a folder that of a run, a comparison or sweeps, or see that it already is; see ``owned``.

    Raises:
        UserError: as ``owned``, or it cannot be written.
    """
    if not owned(folder, file, owner, facts, about):
        write_json(folder / file, {"protocol": PROTOCOL, **about, **facts})


def owned(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> bool:
    """Whether a folder already belongs to a run, a comparison or sweeps; False where it is new.

    Args:
        folder: it.
        file: name of the JSON file in it that says what it belongs to.
        owner: what that is, for messages: ``run``, ``comparison`` or ``sweep``.
        facts: what the file must say.
        about: what it says besides, which may differ.

    Raises:
        UserError: it belongs to another one (what differs is named) or to one of another protocol, holds something
            else, or cannot be read.
    """
    try:
        if (folder / file).is_file():
            theirs = read_json(folder / file)
            refuse_older(theirs, folder)
            _compare(folder, theirs, owner, facts, about)
            return True
        inside = list(folder.iterdir()) if folder.exists() else []
    except NotADirectoryError:
        raise UserError(f"{folder} is a file; name another --output") from None
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    others = sorted(entry.name for entry in inside if entry.name != LOCK and not is_leftover(entry))
    if others:
        raise UserError(f"{folder} holds other files ({others[0]}, …) and no {owner}; name another --output")
    return False


def _compare(
    folder: Path, theirs: dict[str, Any], owner: str, facts: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    theirs = {**LATER, **theirs}
    if all(theirs.get(name) == value for name, value in facts.items()):
        return
    different = [
        f"{name} {_told(theirs.get(name))} instead of {_told(value)}"
        for name, value in {**about, **facts}.items()
        if theirs.get(name) != value
    ]
    listed = ", ".join(different[:MOST_NAMED])
    raise UserError(f"{folder} belongs to another {owner}: {listed}; name another --output")


def _told(value: Any) -> str:
    """A value in a message; a digest by its first digits."""
    return repr(re.sub("^([0-9a-f]{12})[0-9a-f]{28,}$", r"\1…", value) if isinstance(value, str) else value)
