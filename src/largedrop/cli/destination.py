"""Whether a command's files can be written, asked before it computes anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import UserError

__all__ = ["check_file", "check_folder"]


OTHER = "name another --output"


def check_folder(folder: Path, advice: str = OTHER) -> None:
    """Check that files can be written into a folder, or that it can be made; nothing stays behind.

    Args:
        advice: what to do otherwise, for the message.

    Raises:
        UserError: they cannot.
    """
    _check(folder, folder, advice)


def check_file(path: Path, advice: str = OTHER) -> None:
    """Check that a file can be written; arguments and error are those of ``check_folder``."""
    _check(path, path.parent, advice)


def _check(path: Path, folder: Path, advice: str) -> None:
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        what = "a file" if there.is_file() else "no folder"
        raise UserError(f"cannot write {path}: {there} is {what}; {advice}")
    try:
        with tempfile.NamedTemporaryFile(prefix=".tmp", dir=there):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
