"""Folders of the cache on disk: built under a temporary name, then renamed, so that a reader sees whole ones only."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import UserError

__all__ = ["aside", "cache_errors", "cache_folder", "chosen_folder", "install", "sweep"]

_BUILDING = ".building-"

_STALE = 24 * 3600.0
"""A temporary folder unchanged for this many seconds was left by a killed process."""

Entry = TypeVar("Entry")


def cache_folder() -> Path:
    """$LARGEDROP_CACHE, or else largedrop in $XDG_CACHE_HOME or in ~/.cache.

    Raises:
        UserError: neither variable is set and there is no home folder.
    """
    if chosen := os.environ.get("LARGEDROP_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification has relative ones ignored
        return Path(base) / "largedrop"
    try:
        return Path.home() / ".cache" / "largedrop"
    except RuntimeError as error:
        raise UserError("there is no home folder for the image cache; set LARGEDROP_CACHE to a folder") from error


def chosen_folder(cache: Path | None) -> Path:
    """The folder of the cache: ``cache``, or ``cache_folder()`` where it is None."""
    return (Path(cache).absolute() if cache is not None else cache_folder()).resolve()


def aside(entry: Path, name: str = "") -> Path:
    """The temporary folder in which ``entry`` is built, named after ``name``, or uniquely where it is empty."""
    return entry.parent / f"{_BUILDING}{name or uuid.uuid4().hex}"


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
            damaged = aside(entry)
        try:
            entry.rename(damaged)
        except FileNotFoundError:
            continue  # another process has moved it
        shutil.rmtree(damaged, ignore_errors=True)
    raise UserError(f"other processes keep replacing {entry}")


def sweep(folder: Path) -> None:
    """Remove the temporary folders in ``folder`` that killed processes left."""
    for path in folder.glob(f"{_BUILDING}*"):
        try:
            touched = max(child.stat().st_mtime for child in (path, *path.iterdir()))
        except OSError:
            continue  # its own process has just removed it
        if time.time() - touched > _STALE:
            shutil.rmtree(path, ignore_errors=True)


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
