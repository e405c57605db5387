"""Claiming a folder: for one config, and for nobody else."""

from __future__ import annotations

from pathlib import Path

from ..config import Config
from ..errors import UserError
from ..files import is_leftover, read_json, write_json

__all__ = ["claim_folder"]


def claim_folder(folder: Path, config: Config) -> None:
    """Make ``folder`` the one of ``config``, or see that it already is.

    Raises:
        UserError: it belongs to another config (the settings that differ are named), holds something else, or cannot be
            written.
    """
    path = folder / "config.json"
    if path.is_file():
        theirs, ours = read_json(path), config.to_json()
        different = [key for key in ours if theirs.get(key) != ours[key]]
        if different:
            listed = ", ".join(f"{key} {theirs.get(key)!r} instead of {ours[key]!r}" for key in different[:4])
            raise UserError(f"{folder} belongs to another config: {listed}; name another --output")
        return
    if folder.is_dir() and any(entry.name != ".lock" and not is_leftover(entry) for entry in folder.iterdir()):
        raise UserError(f"{folder} holds other files and no run; name another --output")
    write_json(path, config.to_json())
