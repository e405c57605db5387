"""The members of a tar archive, whatever its headers say."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Literal

from ..errors import UserError

__all__ = ["tar_members"]

_TAIL = 1 << 20
"""Bytes after an archive's end that are looked at; writers fill the last 10 KiB with zeros."""


def tar_members(path: Path, mode: Literal["r:", "r:*"]) -> Iterator[tuple[tarfile.TarInfo, Callable[[], IO[bytes]]]]:
    """The members of a tar archive in its order, each with what opens it if it is a file.

    Args:
        path: the archive.
        mode: ``r:*`` unpacks gzip, bzip2 and xz as well.

    Raises:
        UserError: an archive that is not compressed goes on after its end, or has none.
        tarfile.TarError: it is no tar archive, or a header in it is damaged.
        OSError: the archive cannot be read; of a compressed one also what the library that unpacks it raises.
    """
    last = -1
    try:
        with tarfile.open(path, mode) as archive:
            for member in archive:
                if member.size < 0 or member.offset <= last:  # tarfile would go round for ever
                    raise tarfile.ReadError(f"{member.name!r} in it leads back to what was read")
                last = member.offset
                yield member, partial(_opened, archive, member)
            if mode == "r:":
                _check_end(path, archive.offset, len(archive.getmembers()))
    except (ValueError, OverflowError, MemoryError, RecursionError) as error:
        # What tarfile raises where a header holds no number, a huge one, or thousands of headers.
        raise tarfile.ReadError(f"a header in it is damaged ({str(error) or type(error).__name__})") from error


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(member)
    if opened is None:
        raise tarfile.ReadError(f"{member.name!r} has no contents")
    return opened


def _check_end(shard: Path, end: int, members: int) -> None:
    """Raise UserError unless only zeros follow where reading ended: tarfile takes what it cannot read for the end."""
    with open(shard, "rb") as file:
        file.seek(end)
        rest = file.read(_TAIL)
    if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise UserError(f"{shard} is cut or damaged after {members:,} files: make it or fetch it again")
    if rest.strip(b"\0"):
        raise UserError(f"{shard} is several archives in one, of which only the first would be read: split it")
