"""Ownership of folders: each belongs to one run, comparison or dataset's sweeps, and to one process at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from ..config import LATER, PROTOCOL, Config
from ..data.dataset import Dataset
from ..errors import UserError
from ..files import is_leftover, read_json, write_stored
from .content import is_finished
from .protocol import refuse_older

__all__ = ["claim", "claimed", "finished", "named_before", "owned"]

LOCK = ".lock"

MOST_NAMED = 4
"""Number of differences in a message."""

NOTHING: Mapping[str, Any] = {}


@contextmanager
def claimed(folder: Path, config: Config) -> Iterator[None]:
    """Within the block, ``folder`` belongs to the run of ``config`` and is locked against other processes.

    Temporary files that killed processes left are removed.

    Raises:
        UserError: see ``owned``; or the folder cannot be written, has a link through which files elsewhere would be,
            or another process has locked it.
    """
    claim(folder, "config.json", "run", config.to_json())
    for path in (folder / LOCK, folder / "outputs"):
        if path.is_symlink():
            raise UserError(f"{path} is a link, and a run writes into its own folder only; remove the link")
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"another process is using {folder}") from None
    except OSError as error:
        raise UserError(f"cannot write {folder / LOCK}: {error.strerror or error}") from error
    try:
        for path in filter(is_leftover, [*folder.iterdir(), *folder.glob("outputs/.*")]):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def finished(folder: Path, config: Config) -> bool:
    """Whether the folder of the run of ``config`` has a result: it needs no lock, and may be on a read-only disk.

    Raises:
        UserError: see ``owned``.
    """
    return is_finished(folder) and owned(folder, "config.json", "run", config.to_json())


def claim(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> None:
    """Claim a new folder for a run, a comparison or sweeps, or check that it belongs to it; arguments as in ``owned``.

    Raises:
        UserError: see ``owned``; or the folder cannot be written.
    """
    if not owned(folder, file, owner, facts, about):
        write_stored(folder / file, {"protocol": PROTOCOL, **about, **facts})


def named_before(data: Dataset, stored: Iterable[Path]) -> Dataset:
    """``data`` under the name that it had in a comparison, sweep or run, where it was renamed since: it is the same.

    Args:
        stored: the JSON files that identify their folders' owners; those that are not there are passed over.
    """
    names = []
    for path in stored:
        with suppress(UserError):  # whoever uses the folder is told
            theirs = read_json(path)
            if theirs.get("fingerprint") == data.fingerprint and isinstance(theirs.get("data"), str):
                names.append(theirs["data"])
    return data if not names or data.name in names else replace(data, name=names[0])


def owned(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> bool:
    """Whether a folder already belongs to a run, a comparison or sweeps; False where it is new.

    Args:
        file: name of the JSON file in the folder that identifies its owner.
        owner: kind of owner, for messages: ``run``, ``comparison`` or ``sweep``.
        facts: fields of the file that must be equal.
        about: further fields of the file, which may differ.

    Raises:
        UserError: the folder belongs to another owner (the message names the differences) or protocol, contains other
            files, or cannot be read.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # safetensors takes no such path
        raise UserError(f"the name of {folder} is not UTF-8; name another --output") from None
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
        raise UserError(f"{folder} contains other files ({others[0]}, …) and no {owner}; name another --output")
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
    """A value for a message; a digest is cut to its first digits."""
    return repr(re.sub("^([0-9a-f]{12})[0-9a-f]{28,}$", r"\1…", value) if isinstance(value, str) else value)
