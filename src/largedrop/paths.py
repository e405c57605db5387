"""Names and places of files and folders."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import UserError

__all__ = ["MOST_BYTES", "cache_folder", "expanded", "fitting"]

MOST_BYTES = 255
"""Longest name of a file or folder on common file systems."""


def fitting(name: str, tail: str = "") -> str:
    """``name + tail``; where that is too long for a file's name, the end of ``name`` is replaced by a digest.

    A slash, as a table's domain may have, becomes a hyphen.

    >>> fitting("sketch", "-s0"), fitting("north/south")
    ('sketch-s0', 'north-south')
    >>> fitting("é" * 130, "-s0").lstrip("é")
    '~0e4534362fc1-s0'
    """
    name = name.replace("/", "-")
    encoded, last = (text.encode("utf-8", "surrogateescape") for text in (name, tail))
    if len(encoded) + len(last) <= MOST_BYTES:
        return name + tail
    digest = f"~{hashlib.sha256(encoded).hexdigest()[:12]}"
    return encoded[: MOST_BYTES - len(digest) - len(last)].decode("utf-8", "ignore") + digest + tail


def cache_folder() -> Path:
    """$LARGEDROP_CACHE, or else largedrop in $XDG_CACHE_HOME or in ~/.cache.

    Raises:
        UserError: neither variable is set and there is no home folder.
    """
    if chosen := os.environ.get("LARGEDROP_CACHE"):
        return expanded(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification has relative ones ignored
        return Path(base) / "largedrop"
    try:
        return Path.home() / ".cache" / "largedrop"
    except RuntimeError as error:
        raise UserError("there is no home folder for the image cache; set LARGEDROP_CACHE to a folder") from error


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of ``~`` or ``~user``.

    Raises:
        UserError: there is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no home folder in place of {str(path).partition(os.sep)[0]}") from error
