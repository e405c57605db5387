"""Classes found in the files of a package."""

from __future__ import annotations

from pathlib import Path

import pytest

from largedrop.training.kinds import classes_in

BASE = """
from abc import ABC, abstractmethod

class Base(ABC):
    @abstractmethod
    def f(self): ...
"""


def test_concrete_classes_each_where_it_is_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "__init__": "class InThePackage: ...",
        "base": BASE,
        "two": "from .base import Base\nclass Two(Base):\n    def f(self): ...\nclass Other: ...",
        "one": "from .two import Two\nclass One(Two): ...\nclass Part(Two.__base__): ...\nNAME = 'One'",
    }
    folder = tmp_path / "made_up_kinds"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert [kind.__name__ for kind in classes_in("made_up_kinds")] == ["One", "Two", "Other"]
