"""A run that collapsed or failed says so in its folder, so that other processes of the sweep leave it alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..errors import CollapseError, InTheWayError, RunError, UserError
from ..files import read_json, write_stored

__all__ = ["FAILURE_FILE", "forget_failure", "read_failure", "write_failure"]

FAILURE_FILE = "failure.json"


def write_failure(folder: Path, error: RunError, trace: str = "") -> None:
    """Store why a run ended without a result.

    Args:
        trace: the traceback, where there is one.

    Raises:
        UserError: the folder cannot be written.
    """
    kind = "collapsed" if isinstance(error, CollapseError) else "failed"
    write_stored(folder / FAILURE_FILE, {"kind": kind, "reason": str(error), "trace": trace})


def read_failure(folder: Path) -> tuple[RunError, str] | None:
    """The error that a run was given up with, and its traceback; None where there is none that can be read.

    Whoever begins the run again removes it.
    """
    with suppress(UserError):
        found = read_json(folder / FAILURE_FILE)
        reason, trace = found.get("reason"), found.get("trace")
        if isinstance(reason, str) and isinstance(trace, str):
            return (CollapseError if found.get("kind") == "collapsed" else RunError)(reason), trace
    return None


def forget_failure(folder: Path) -> None:
    """Let a run that was given up be tried again.

    Raises:
        InTheWayError: there is a folder in its place.
        UserError: the folder cannot be written.
    """
    path = folder / FAILURE_FILE
    try:
        if os.path.lexists(path):  # a disk that cannot be written refuses also where there is nothing
            path.unlink(missing_ok=True)
    except OSError as error:
        if path.is_dir():
            raise InTheWayError(f"cannot remove {path}, which is a folder; remove it") from error
        raise UserError(f"cannot remove {path}: {error.strerror or error}") from error
