"""Digests of files' contents, remembered by each file's stamp, so that no file is read twice.

<cache>/digests/<folder>.json      stamp and digest of each file, by its path
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import UserError
from ..files import read_json, replacing
from .ahead import in_order
from .bits import Wide, may_be_wide, wide
from .images import BadImage, opened
from .inside import Place

__all__ = ["GRANULARITY", "File", "digest_of", "digested", "stamp_of"]

GRANULARITY = 2.0
"""Within this many seconds a file may change twice under one modification time (FAT's resolution is 2 s)."""


@dataclass(frozen=True, slots=True)
class File:
    """A file when its contents were digested.

    ``settled`` unless just modified, ``bad`` where they cannot be read, and ``wide`` where it is a 16-bit image.
    """

    path: Place
    stamp: str
    digest: str
    settled: bool
    bad: BadImage | None = None
    wide: Wide | None = None

    @property
    def line(self) -> str:
        """What is remembered of the file: its stamp, its digest, and of a 16-bit image what its values are."""
        return " ".join([self.stamp, ":".join(map(str, (self.digest, *map(int, self.wide or ()))))])


def digest_of(keys: Sequence[str], digests: Sequence[str], first: str = "") -> str:
    """SHA-256, hexadecimal, of ``first``, and of every image's key and the digest of its file's contents."""
    total = hashlib.sha256(first.encode())
    for key, digest in zip(keys, digests, strict=True):
        total.update(f"{key}\0{digest}\n".encode())
    return total.hexdigest()


def digested(paths: Sequence[Place], folder: Path) -> list[File]:
    """Digest every file; only files that are new or have changed since the last call are read."""
    name = hashlib.sha256(os.path.commonpath([path.parent for path in paths]).encode("utf-8", "surrogateescape"))
    store = folder / f"{name.hexdigest()[:40]}.json"
    known = _remembered(store)
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with closing(in_order(partial(_digest_all, known), chunks)) as results:
        files = [file for chunk in results for file in chunk]
    settled = [file for file in files if file.settled]
    if len(settled) != len(known) or any(known.get(str(file.path)) != file.line for file in settled):
        known.clear()
        # A failure costs time only; if the images cannot be written either, that raises.
        with suppress(UserError), replacing(store) as path, open(path, "w", encoding="ascii") as out:
            # One by one, since all lines at once are as much memory as all else. JSON in ASCII: a path may contain
            # bytes that are not UTF-8.
            check = 0
            out.write('{"format": 2, "files": {')
            for number, file in enumerate(settled):
                own, line = str(file.path), file.line
                check = _check(own, line, check)
                out.write(",\n" * (number > 0) + f"{json.dumps(own)}: {json.dumps(line)}")
            out.write(f'}}, "check": {check}}}\n')
    return files


def _remembered(store: Path) -> dict[str, str]:
    try:
        content = read_json(store)
        known = {str(path): str(line) for path, line in content["files"].items()}
        check = 0
        for path, line in known.items() if content["format"] == 2 else ():
            check = _check(path, line, check)
        # Format 1 has no checksum.
        return known if content["format"] == 1 or (content["format"], content["check"]) == (2, check) else {}
    except (UserError, KeyError, AttributeError):
        return {}


def _check(path: str, line: str, before: int) -> int:
    """CRC-32 of an entry and those before it."""
    return zlib.crc32(f"{path}\0{line}\n".encode("utf-8", "surrogatepass"), before)


def _digest_all(known: dict[str, str], paths: Sequence[Place]) -> list[File]:
    return [_digest(path, known.get(str(path), "")) for path in paths]


def _digest(path: Place, remembered: str) -> File:
    """Digest one file's contents, or take the digest from ``remembered`` where its stamp is the same."""
    try:
        now = time.time()
        stamp, modified = stamp_of(path)
        if remembered.startswith(f"{stamp} "):
            known, *values = remembered.rpartition(" ")[2].split(":")
            found = Wide(int(values[0]), values[1] == "1") if values else None
            return File(path, stamp, known, settled=True, wide=found)
        digest = hashlib.sha256()
        start = b""
        with opened(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                start = start or block[:32]
        found = wide(path) if may_be_wide(start) else None
        return File(path, stamp, digest.hexdigest(), settled=now - modified > GRANULARITY, wide=found)
    except BadImage as error:
        bad = error
    except OSError as error:
        bad = BadImage(path, f"cannot be read: {error.strerror or error}")
    return File(path, "", f"unreadable: {bad.reason}", settled=False, bad=bad)


def stamp_of(path: Place) -> tuple[str, float]:
    status = path.stat()
    # A file may be replaced with its size and time kept, but not with its inode or its time of change.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}", status.st_mtime
