"""Names that fit, and places of caches and homes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop.files import write_text
from largedrop.paths import cache_folder, expanded, fitting


def test_a_name_that_a_file_system_takes_stays_and_a_longer_one_ends_in_a_digest(tmp_path: Path) -> None:
    assert fitting("a" * 252, "-s0") == "a" * 252 + "-s0"
    assert fitting("é" * 126, "-s0") == "é" * 126 + "-s0"
    names = [fitting(name, "-s0") for name in ("a" * 253, "é" * 127, "a" + "é" * 127, "字" * 85, "🦊" * 64 + "\udcff")]
    for name, start in zip(names, ("a", "é", "é", "字", "🦊"), strict=True):
        assert 252 <= len(name.encode()) <= 255
        assert name[1:].lstrip(start)[0] == "~"
        assert name.endswith("-s0")
        write_text(tmp_path / name, "")
    assert len(set(names)) == len(names)
    assert fitting("a" * 300, "-s0") != fitting("a" * 301, "-s0")


def test_a_home_that_there_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/photos") == tmp_path / "photos"
    assert expanded("photos/~") == Path("photos/~")
    said = "~nobody-of-this-name/photos: there is no home folder in place of ~nobody-of-this-name"
    assert refusal(expanded, "~nobody-of-this-name/photos") == said
    monkeypatch.setenv("LARGEDROP_CACHE", "~nobody-of-this-name/cache")
    assert "there is no home folder in place of" in refusal(cache_folder)
