"""Folders of the cache on disk: built under a temporary name, then renamed, so that a reader sees whole ones only."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import filelock

from ..errors import UserError
from ..files import cache_folder, is_leftover

__all__ = ["aside", "building", "cache_errors", "cache_folder", "chosen_folder", "discard", "install", "sweep"]

_BUILDING = ".building-"

_LOCK = ".lock"
"""Ending of the file beside a temporary folder that its process has locked."""

_STALE = 24 * 3600.0
"""A temporary file, or folder without a lock, that is unchanged for this many seconds was left by a killed process."""

Entry = TypeVar("Entry")


def chosen_folder(cache: Path | None) -> Path:
    """The folder of the cache: ``cache``, or ``cache_folder()`` where it is None."""
    return (Path(cache).absolute() if cache is not None else cache_folder()).resolve()


def aside(entry: Path, name: str = "") -> Path:
    """The temporary folder in which ``entry`` is built, named after ``name``, or uniquely where it is empty."""
    return entry.parent / f"{_BUILDING}{name or uuid.uuid4().hex}"


@contextmanager
def building(entry: Path) -> Iterator[Path]:
    """A new temporary folder in which ``entry`` is built, locked within the block and removed at its end."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    for name in (entry.parent.name, "digests", "opened"):
        sweep(entry.parent.with_name(name))
    folder = aside(entry)
    try:
        with filelock.FileLock(_lock_of(folder)):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_of(folder).unlink(missing_ok=True)


def discard(entry: Path) -> None:
    """Remove an entry that is damaged; another process may have done so already."""
    damaged = aside(entry)
    with suppress(FileNotFoundError):
        entry.rename(damaged)
    shutil.rmtree(damaged, ignore_errors=True)


def install(built: Path, entry: Path, load: Callable[[Path], Entry]) -> Entry:
    """Rename a finished folder to ``entry``; a damaged entry of that name is replaced, an intact one is used.

    Args:
        built: the finished folder, beside ``entry``.
        load: opens an entry; raises OSError or ValueError where it is damaged.

    Returns:
        The opened entry: the one that was built, or one that another process installed first.

    Raises:
        UserError: other processes keep replacing it.
    """
    for _ in range(10):
        try:
            built.rename(entry)
        except OSError:
            if not entry.exists():
                raise
        else:
            return load(entry)
        try:
            return load(entry)
        except (OSError, ValueError):
            discard(entry)
    raise UserError(f"other processes keep replacing {entry}")


def sweep(folder: Path) -> None:
    """Remove the temporary folders and files in ``folder`` that killed processes left."""
    for path in filter(is_leftover, folder.glob(".*")):
        with suppress(OSError):  # its own process has just renamed it
            if path.is_file() and time.time() - path.stat().st_mtime > _STALE:
                path.unlink()
    for path in folder.glob(f"{_BUILDING}*"):
        if path.suffix == _LOCK:
            if not path.with_suffix("").exists() and _is_free(path):
                path.unlink(missing_ok=True)
        elif path.is_symlink():
            path.unlink(missing_ok=True)
        elif _is_left(path):
            shutil.rmtree(path, ignore_errors=True)
            _lock_of(path).unlink(missing_ok=True)


def _is_left(folder: Path) -> bool:
    """Whether a killed process left a temporary folder: it is not locked or, where it never was, long unchanged."""
    try:
        if _lock_of(folder).exists():
            return _is_free(_lock_of(folder))
        return time.time() - max(child.stat().st_mtime for child in (folder, *folder.iterdir())) > _STALE
    except OSError:  # its own process has just removed it
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


def _is_free(lock: Path) -> bool:
    """Whether the process that had locked a file has ended."""
    try:
        with filelock.FileLock(lock, timeout=0):
            return True
    except filelock.Timeout:
        return False


@contextmanager
def cache_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn a failure to write ``what`` into ``folder`` into a UserError that says how to move the cache."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        advice = "set LARGEDROP_CACHE to a folder that can be written and has room"
        raise UserError(f"cannot write {what} in {folder}: {reason}; {advice}") from error
