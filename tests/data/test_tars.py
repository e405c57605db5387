"""Tar archives with headers that lie: numbers that are none, negative or huge, and thousands of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from largedrop.data.tars import tar_members


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header, its checksum right, that says ``size`` whatever follows it."""
    info = tarfile.TarInfo(name)
    info.type = kind
    made = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    made[124:136] = (size % 256**12).to_bytes(12, "big")  # as GNU tar writes what octal digits cannot
    made[124] = 0o377 if size < 0 else 0o200
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def pax(text: bytes) -> bytes:
    return header("x", len(text), tarfile.XHDTYPE) + text.ljust(512, b"\0") + header("a", 0)


def back(size: int) -> bytes:
    """Three members, of which the last says that the next begins before it."""
    return header("a", 0) + header("b", 0) + header("c", size)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (back(-1), "'c' in it leads back"),
        (back(-1024), "'c' in it leads back"),
        (header("x", -512, tarfile.GNUTYPE_LONGNAME), "non-negative"),
        (header("x", 10**18, tarfile.GNUTYPE_LONGNAME), "MemoryError"),
        (header("x", 10**19, tarfile.XHDTYPE), "index-sized"),
        (header("x", 0, tarfile.GNUTYPE_LONGNAME) * 3000, "recursion"),
        (pax(b"23 GNU.sparse.size=ten\n"), "invalid literal"),
        (pax(b"18 size=-1048576\n"), "leads back"),
    ],
)
def test_a_damaged_header_is_said(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(tarfile.ReadError, match=reason):
        list(tar_members(path, "r:"))
    with pytest.raises(tarfile.TarError):
        list(tar_members(path, "r:*"))


def test_members_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("a", 3) + b"one".ljust(512, b"\0") + header("b", 0, tarfile.DIRTYPE) + bytes(1024))
    found = [member.name for member, _ in tar_members(path, "r:")]
    assert found == ["a", "b"]
    opening = tar_members(path, "r:*")
    _, opened = next(opening)
    assert opened().read() == b"one"
    _, opened = next(opening)
    with pytest.raises(tarfile.ReadError, match="'b' has no contents"):
        opened()
