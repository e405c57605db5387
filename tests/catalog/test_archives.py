"""Archives that are whole, and those that are damaged, leave their folder or fill the disk."""

from __future__ import annotations

import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from largedrop.catalog import archives
from largedrop.catalog.archives import members
from largedrop.errors import UserError

FILES = {"data/photo/dog/1.jpg": b"one", "./data/photo/cat/2.jpg": b"two"}


def make_zip(path: Path, files: dict[str, bytes] = FILES, attributes: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("data/"), b"")
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes << 16, zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES, kind: bytes = tarfile.REGTYPE) -> Path:
    mode: Any = f"w:{path.suffix[1:]}" if path.suffix in (".gz", ".bz2", ".xz") else "w"
    with tarfile.open(path, mode) as file:
        folder = tarfile.TarInfo("data")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            file.addfile(info, io.BytesIO(content))
    return path


def contents(path: Path, into: Path) -> dict[str, bytes]:
    """What is in an archive, by reading and by writing."""
    found = {}
    for number, member in enumerate(members(path)):
        member.write(into / str(number))
        found["/".join(member.parts)] = (into / str(number)).read_bytes()
    assert found == {"/".join(member.parts): member.read() for member in members(path)}
    return found


def reason(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        sum(len(member.read()) for member in members(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_files_are_read_and_written(tmp_path: Path, name: str) -> None:
    path = (make_zip if name == "a.zip" else make_tar)(tmp_path / name)
    assert contents(path, tmp_path) == {"data/photo/dog/1.jpg": b"one", "data/photo/cat/2.jpg": b"two"}


def test_a_plain_tar_may_be_called_gz(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    assert len(contents(path, tmp_path)) == 2


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../x.jpg", "data/../../x.jpg", "C:/x.jpg", "..\\x.jpg", "a\\..\\x"])
def test_paths_that_leave_the_folder_are_refused(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    said = reason(make(tmp_path / "a.bin", {name: b"x"}))
    assert said == f"a.bin is refused: {name!r} in it leaves the archive's folder"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    said = reason(make_tar(tmp_path / "a.tar", {"x.jpg": b""}, kind))
    assert said == "a.tar is refused: 'x.jpg' in it is a link or a device"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    said = reason(make_zip(tmp_path / "a.zip", {"x.jpg": b"/etc/passwd"}, kind | 0o777))
    assert said == "a.zip is refused: 'x.jpg' in it is a link or a device"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_what_fills_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(archives, "SPARE", 1000)
    monkeypatch.setattr(archives, "_CHUNK", 1 << 16)
    path = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, {"x/1.jpg": bytes(5_000_000)})
    inside = members(path)
    member = next(inside)
    with pytest.raises(UserError, match=f"{name} is refused: 'x/1.jpg' in it unpacks to more than an archive"):
        member.write(tmp_path / "x")
    assert (tmp_path / "x").stat().st_size <= 20 * path.stat().st_size + 1000


def test_many_small_files_that_fill_the_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SPARE", 1000)
    path = make_zip(tmp_path / "a.zip", {f"x/{number}.jpg": bytes(100_000) for number in range(100)})
    assert "unpacks to more than an archive of images can hold" in reason(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_damaged(tmp_path: Path, name: str, share: float) -> None:
    noise = random.Random(0).randbytes(5000)
    whole = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, {"x/1.jpg": noise, "x/2.jpg": noise[::-1]})
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * (5000 if name == "a.tar" else len(content)))])
    assert reason(whole).startswith(f"{name} is damaged, or no zip or tar archive: ")


def test_a_changed_byte_in_a_zip_is_seen(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x/1.jpg": bytes(range(256)) * 8})
    content = bytearray(path.read_bytes())
    content[content.index(b"x/1.jpg") + 40] ^= 255
    path.write_bytes(content)
    assert reason(path).startswith("a.zip is damaged")


def test_an_encrypted_zip_needs_its_password(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[start + 8] |= 1
    path.write_bytes(content)
    assert reason(path) == "a.zip is encrypted: unpack it with its password"


def test_a_web_page_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_text("<html>Sign in</html>")
    assert reason(path).startswith("a.zip is damaged, or no zip or tar archive: ")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_file_without_a_name_is_refused(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert reason(make(tmp_path / "a.zip", {"": b"one"})) == "a.zip is refused: '' in it has no name"
