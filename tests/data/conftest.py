"""What the tests of the image cache share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.stores import Store

from largedrop.data import cache
from largedrop.data.images import decode


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded while a test runs."""
    names: list[str] = []
    real = decode
    monkeypatch.setattr(cache, "decode", lambda path, bound: names.append(path.name) or real(path, bound))
    return names
