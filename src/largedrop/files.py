"""Files that are written whole (a temporary file, fsync, rename), and JSON files that are read with one message."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DamagedError, InTheWayError, UserError, unanswered

__all__ = [
    "UNKNOWN_CRC",
    "file_crc",
    "guards",
    "is_leftover",
    "json_text",
    "keep_text",
    "opened",
    "parse_json",
    "read_bytes",
    "read_json",
    "remove_leftovers",
    "replacing",
    "stored_text",
    "tensors_crc",
    "there",
    "write_bytes",
    "write_json",
    "write_stored",
    "write_text",
]

CHECKSUM = "checksum"
"""Field of the checksum in JSON that is read again: of the content, and of all bytes of the file before its own."""

_LAST = re.compile(rb'"checksum": "([0-9a-f]{16})"\n?}\n?\Z')
"""It at the end of a file as it was written."""

UNKNOWN_CRC = "00000000"
"""What stands for the checksum of a file of tensors, in its header, while it is computed."""

_CRC = re.compile(rb'\\"crc32\\": \\"([0-9a-f]{8})\\"')
"""That checksum in the bytes of the file: our header is JSON in a string of safetensors' header."""

guards: dict[Path, Callable[[], None]] = {}
"""By folder, what is asked before a file in it or below takes its name; a lease raises BusyError once it is lost."""

NO_FILE = frozenset((errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR))
"""What reading fails with where there is no regular file: a pipe, a device, a folder, a circle, a link to nothing."""

HOUR = 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is flushed to disk and takes the name ``path``.

    On any exception the temporary file is removed and ``path`` is unchanged.

    Raises:
        UserError: the folder cannot be written or the disk is full.
        BusyError: another process has taken the folder meanwhile, as where a file server was away.
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
        for folder in path.absolute().parents:
            if (guard := guards.get(folder)) is not None:
                guard()
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except FileExistsError as error:
        what = "a file" if path.parent.is_file() else "no folder"
        raise InTheWayError(f"cannot write {path}: {path.parent} is {what}; rename it or remove it") from error
    except IsADirectoryError as error:
        raise InTheWayError(f"cannot write {path}: there is a folder of that name; rename it or remove it") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # what failed is told
                temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` whole, as UTF-8; what is no text, as in some files' names, is escaped."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def keep_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as ``write_text`` does, unless it is there."""
    try:
        if read_bytes(path) == content.encode("utf-8", "backslashreplace"):
            return
    except OSError:
        pass  # writing says what is wrong
    write_text(path, content)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` whole, as JSON."""
    write_text(path, json_text(content))


def write_stored(path: Path, content: Mapping[str, Any], *, compact: bool = False) -> None:
    """Write ``content`` to ``path`` whole, as JSON with a checksum of itself, which ``read_json`` checks and takes off.

    Args:
        compact: write one line in ASCII: a path may contain bytes that are not UTF-8.
    """
    write_text(path, stored_text(content, compact=compact))


def stored_text(content: Mapping[str, Any], *, compact: bool = False) -> str:
    """The text that ``write_stored`` writes."""
    checked = {**content, CHECKSUM: _checksum(content) + UNKNOWN_CRC}
    text = json.dumps(checked) if compact else json_text(checked)
    at = text.rindex(UNKNOWN_CRC)
    return text[:at] + _crc(text[:at].encode("utf-8", "backslashreplace")) + text[at + len(UNKNOWN_CRC) :]


def _checksum(content: Any) -> str:
    """CRC-32 of JSON, whose layout and order of fields do not matter."""
    return _crc(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def _crc(content: bytes) -> str:
    """CRC-32, eight hexadecimal digits."""
    return f"{zlib.crc32(content):08x}"


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


def there(path: Path) -> bool:
    """Whether there is something of a name, if only a link to nothing.

    Raises:
        UserError: the file system failed or did not answer, which does not say that there is nothing.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if told := unanswered(error):
            raise UserError(told) from error
        return False
    except ValueError:  # a name with a null character
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: see ``opened``.
    """
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be read, or is none: a pipe would be waited for, and a device may never end.
    """
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "its name has a null character", str(path))
    # Without waiting for a pipe's other end.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is no regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_json(path: Path, name: str = "") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        name: name of the file in messages; its path where empty.

    Raises:
        DamagedError: the file is missing, is no regular file, or does not contain a JSON object that fits its checksum.
        UserError: it cannot be read; it may be whole.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        kind = DamagedError if error.errno in NO_FILE else UserError
        raise kind(f"{name or path} cannot be read: {error.strerror or error}") from error
    try:
        return parse_json(content, name or str(path))
    except UserError as error:
        raise DamagedError(str(error)) from error.__cause__


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder; one that was changed within an hour may be in use.

    What cannot be removed, as on a read-only disk, stays.
    """
    for path in folder.glob(".*"):
        with suppress(OSError):
            if is_leftover(path) and not path.is_dir() and time.time() - path.lstat().st_mtime > HOUR:
                path.unlink()


def parse_json(content: bytes, name: str, without: str = "") -> dict[str, Any]:
    """The JSON object in ``content``, the bytes of the file ``name``; without its checksum, where it has one.

    Args:
        without: a field that is left out, with those after it, where not a byte of an indented file has changed since
            it was written: that takes less time.

    Raises:
        UserError: ``content`` is not what its checksum is of, is not JSON, has numbers that no largedrop writes (NaN,
            infinity, whole ones of more than 64 bits), or is not an object.
    """
    try:
        parsed, intact = _parsed(content, without)
    except RecursionError as error:
        raise UserError(f"{name} is not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{name} is not a JSON object")
    if not intact:
        raise UserError(f"{name} was changed after it was written: its checksum is not that of its content")
    return parsed


def _parsed(content: bytes, without: str) -> tuple[Any, bool]:
    """What JSON says, without its checksum; and whether that is of the rest, where there is one."""
    last = _LAST.search(content, max(0, len(content) - 50))
    unchanged = last is not None and last[1][8:].decode() == _crc(content[: last.start(1) + 8])
    if unchanged and without and (end := content.find(f',\n  "{without}": '.encode())) > 0:
        content = content[:end] + b"}"
    parsed = _DECODER.decode(content.decode(json.detect_encoding(content), "surrogatepass"))
    stated = parsed.pop(CHECKSUM, None) if isinstance(parsed, dict) else None
    if unchanged:
        return parsed, True
    try:
        own = _checksum(parsed)
    except ValueError:  # a number that is not finite: to look at each in the first place would double the time
        json.loads(content, parse_float=_finite)
        raise
    return parsed, stated is None or (isinstance(stated, str) and stated[:8] == own)


def tensors_crc(path: Path) -> tuple[str, int]:
    """CRC-32 of a file of tensors, eight hexadecimal digits, with ``UNKNOWN_CRC`` at the place of the checksum in its
    header; and that place, in bytes. Empty where there is none.

    Any run of wrong bytes up to four is noticed for certain, any other change but for one in 2³².

    Raises:
        OSError: it cannot be read. (Where a file is mapped into memory, that ends the process.)
    """
    with opened(path) as file:
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), os.fstat(file.fileno()).st_size))
        found = _CRC.search(head, 8)
        if found is None:
            return "", 0
        start, stop = found.span(1)
        value = _crc_of_rest(file, zlib.crc32(head[:start] + UNKNOWN_CRC.encode() + head[stop:]))
    return f"{value:08x}", start


def file_crc(path: Path) -> str:
    """CRC-32 of a file, eight hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with opened(path) as file:
        return f"{_crc_of_rest(file):08x}"


def _crc_of_rest(file: BinaryIO, value: int = 0) -> int:
    while part := file.read(1 << 20):
        value = zlib.crc32(part, value)
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _whole(text: str) -> int:
    if len(text) < 19:
        return int(text)
    # A longer text is not converted, which would take its length squared.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"{text[:20]}… is a number of more than 64 bits")
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_int=_whole)
"""Made once: a report on many runs reads as many small files."""
