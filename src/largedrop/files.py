"""Files that are written whole (a temporary file, fsync, rename), and JSON files that are read with one message."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = [
    "fitting",
    "is_leftover",
    "json_text",
    "parse_json",
    "read_bytes",
    "read_json",
    "replacing",
    "write_bytes",
    "write_json",
    "write_text",
]

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is flushed to disk and takes the name ``path``.

    On any exception the temporary file is removed and ``path`` is unchanged.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise UserError(f"cannot write {path}: {path.parent} is a file") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` whole, as UTF-8; what is no text, as in some files' names, is escaped."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` whole, as JSON."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """``content`` as indented JSON (no NaN, so that every parser reads it)."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is a temporary file of ``replacing``, or of safetensors, which names its own ``.tmpXXXXXX``.

    Such a file was left by a killed process, unless another process is writing now.
    """
    return path.name.startswith(".tmp") or (path.name.startswith(".") and path.suffix == ".tmp")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened (Windows does not)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is none: a pipe would be waited for, and a device may never end.
    """
    # Without waiting for a pipe's other end.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is no regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def read_json(path: Path, name: str = "") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        name: name of the file in messages; its path where empty.

    Raises:
        UserError: the file is missing, cannot be read, or does not contain a JSON object.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{name or path} cannot be read: {error.strerror or error}") from error
    return parse_json(content, name or str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``content``, the bytes of the file ``name``.

    Raises:
        UserError: ``content`` is not JSON, has numbers that no largedrop writes (NaN, infinity, whole ones of more than
            64 bits), or is not an object.
    """
    try:
        parsed = json.loads(content, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise UserError(f"{name} is not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{name} is not a JSON object")
    return parsed


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _whole(text: str) -> int:
    # A longer text is not converted, which would take its length squared.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"{text[:20]}… is a number of more than 64 bits")
    return int(text)
