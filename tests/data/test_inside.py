"""Parts of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from largedrop.data.inside import Inside


def test_a_part_is_read_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").write_bytes(b"0123456789")
    monkeypatch.chdir(tmp_path)
    part = Inside(Path("whole"), "a/b.png", 3, 4)
    assert part.read() == b"3456"
    assert str(part.absolute()) == f"{tmp_path}/whole: a/b.png"
    assert (part.parent, part.stat().st_size) == (Path("whole"), 10)
    assert Inside(Path("whole"), "x", 8, 4).read() == b"89"
