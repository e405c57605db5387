"""Folders of the cache on disk: built under a temporary name, then renamed, so that a reader sees whole ones only."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..errors import UserError
from ..files import is_leftover
from ..lease import holding, is_left
from ..paths import cache_folder

__all__ = [
    "aside",
    "building",
    "cache_errors",
    "cache_folder",
    "chosen_folder",
    "discard",
    "install",
    "look_again",
    "pieces",
    "sweep",
]

_BUILDING = ".building-"
"""Start of the name of a temporary folder: of nobody's use once its process has ended."""

_PIECES = ".pieces-"
"""The same of one that another process goes on with."""

_STALE = 24 * 3600.0
"""What is temporary and unchanged for this many seconds was left by a killed process."""

Entry = TypeVar("Entry")


def chosen_folder(cache: Path | None) -> Path:
    """The folder of the cache: ``cache``, or ``cache_folder()`` where it is None."""
    return (Path(cache).absolute() if cache is not None else cache_folder()).resolve()


def aside(entry: Path) -> Path:
    """A unique temporary name beside ``entry``."""
    return entry.parent / f"{_BUILDING}{uuid.uuid4().hex}"


def pieces(entry: Path) -> Path:
    """The folder in which the pieces of ``entry`` are until it is whole; those of a killed process stay for a day."""
    return entry.parent / f"{_PIECES}{entry.name}"


@contextmanager
def building(entry: Path) -> Iterator[Path]:
    """A new temporary folder in which ``entry`` is built, this process's within the block and removed at its end."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    for name in (entry.parent.name, "digests", "opened"):
        sweep(entry.parent.with_name(name))
    with holding(aside(entry)) as lease:
        folder = lease.path.with_name("entry")
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def look_again(folder: Path) -> None:
    """Have what other machines have just put into a folder be seen.

    A client of NFS remembers for up to a minute that there was nothing of a name; to open the folder asks the server
    whether it has changed.

    Raises:
        OSError: it cannot be read.
    """
    os.scandir(folder).close()


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
            look_again(entry.parent)
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
            if path.is_file() and _is_old(path):
                path.unlink()
    for path in (*folder.glob(f"{_BUILDING}*"), *folder.glob(f"{_PIECES}*")):
        with suppress(OSError):  # its own process has just removed it
            if path.is_symlink():
                path.unlink()
                continue
            with suppress(OSError):  # it is empty where NFS kept a removed file that was in use
                path.rmdir()
            if (path.name.startswith(_BUILDING) and is_left(path)) or all(map(_is_old, (path, *path.iterdir()))):
                shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _STALE


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
