"""The files in a zip or tar archive, none of which may leave its folder or be larger than the archive can explain."""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from ..data.tars import tar_members
from ..errors import UserError

__all__ = ["Member", "members"]

GROWTH, SPARE = 20, 256 << 20
"""The most that unpacking may give: ``GROWTH`` times the archive's size, and ``SPARE`` bytes.

Images hardly shrink in an archive; what grows a thousandfold is made to fill the disk.
"""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        parts: its path, one part for each folder and the file.
        write: writes its contents to a file that does not exist.
        read: its contents.
    """

    parts: tuple[str, ...]
    write: Callable[[Path], None]
    read: Callable[[], bytes]


def members(archive: Path) -> Iterator[Member]:
    """The files in a zip or tar archive (plain, gzip, bzip2, xz), in the archive's order.

    Each is read, if at all, before the next is asked for.

    Raises:
        UserError: it is no such archive, is damaged or encrypted, or holds what could leave its folder (absolute paths,
            ``..``), links, devices, or more than it can explain.
    """
    with _damage(archive):
        if zipfile.is_zipfile(archive):
            yield from _in_zip(archive)
        else:
            yield from _in_tar(archive)


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Turn the errors of the standard library's readers into a UserError."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        raise UserError(f"{archive.name} is damaged, or no zip or tar archive: {said}") from error
    except (RuntimeError, OSError, ValueError, OverflowError, struct.error) as error:
        # What zipfile cannot unpack, or finds at impossible places.
        raise UserError(f"{archive.name} cannot be unpacked: {error}") from error


def _in_zip(archive: Path) -> Iterator[Member]:
    budget = _Budget(archive)
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise _refused(archive, info.filename, "is a link or a device")
            if info.filename.endswith("/"):
                _parts(archive, info.filename)
                continue
            if info.flag_bits & 1:
                raise UserError(f"{archive.name} is encrypted: unpack it with its password")
            yield budget.member(_parts(archive, info.filename), partial(file.open, info))


def _in_tar(archive: Path) -> Iterator[Member]:
    budget = _Budget(archive)
    for info, opened in tar_members(archive, "r:*"):
        if info.isdir():
            _parts(archive, info.name)
            continue
        if not info.isreg():
            raise _refused(archive, info.name, "is a link or a device")
        yield budget.member(_parts(archive, info.name), opened)


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """The parts of a path in an archive, without ``.``."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in name[:2]:
        raise _refused(archive, name, "leaves the archive's folder")
    return parts


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive.name} is refused: {name!r} in it {why}")


class _Budget:
    """Counts what is unpacked, whatever the archive says of itself."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.left = GROWTH * archive.stat().st_size + SPARE

    def member(self, parts: tuple[str, ...], opened: Callable[[], IO[bytes]]) -> Member:
        if not parts:
            raise _refused(self.archive, "", "has no name")

        def blocks() -> Iterator[bytes]:
            with _damage(self.archive), opened() as source:
                while block := source.read(_CHUNK):
                    self.left -= len(block)
                    if self.left < 0:
                        raise _refused(
                            self.archive, "/".join(parts), "unpacks to more than an archive of images can hold"
                        )
                    yield block

        def write(path: Path) -> None:
            with open(path, "xb") as target:
                for block in blocks():
                    target.write(block)

        return Member(parts, write, lambda: b"".join(blocks()))
