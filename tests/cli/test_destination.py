"""What is said before anything is computed where its files could not be written."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.cli.destination import check_file, check_folder


def test_nothing_stays_behind(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "one")
    check_file(tmp_path / "new" / "file.csv")
    assert not list(tmp_path.iterdir())


def test_a_relative_path_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_file(Path("file.csv"))
    (tmp_path / "there").write_text("")
    said = refusal(check_file, Path("there/file.csv"))
    assert said == f"cannot write there/file.csv: {tmp_path / 'there'} is a file; name another --output"


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX systems")
def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "pipe"):
        path = tmp_path / name
        said = refusal(check_folder, path / "new", "set LARGEDROP_CACHE to a folder")
        assert said == f"cannot write {path / 'new'}: {path} is no folder; set LARGEDROP_CACHE to a folder"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_no_file(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, dir: Path, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(dir))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    said = refusal(check_folder, tmp_path / "new")
    assert said == f"cannot write {tmp_path / 'new'}: {os.strerror(number)}; name another --output"
